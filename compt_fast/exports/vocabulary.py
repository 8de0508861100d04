"""A checkpoint of transformers whose vocabulary holds the prompts: it and CTranslate2 answer by text alone.

The prompt of `rte` becomes the tokens `<rte_0> <rte_1> ...`, rows of the embedding table behind those of the trunk. All
is written in fp32, which holds the trunk and the prompts exactly.

The decoder must never write such a token. Its head is untied from the embeddings for that, and the head's row of every
prompt token is the mean of the trunk's rows: its logit is the mean of the trunk's logits, and the largest of these is
above it whatever the decoder says (but where all are equal). T5 v1.0, whose head is tied, multiplies the decoder's
output by d_model^-0.5 before the head; an untied one does not, so that the factor goes into the head's rows. Our
manifest of each prompt is in `prompts.json`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from compt_fast.exports import Export, check_family
from compt_fast.models.checkpoint import find_folder, load_checkpoint, read_config
from compt_fast.prediction.stored import longest_label, stored_prompt
from compt_fast.prompts import card
from compt_fast.prompts.artifact import manifest_of
from compt_fast.prompts.foreign import TABLE, VOCABULARY
from compt_fast.prompts.store import StoredPrompt
from compt_fast.runs.job import checkpoint_of
from compt_fast.utils.errors import InputError
from compt_fast.utils.files import write_json, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from compt_fast.prediction.predictor import Predictor

HEAD = "lm_head.weight"
_METADATA = {"format": "pt"}  # as transformers asks of its files

LOAD = """from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForSeq2SeqLM.from_pretrained("."{dtype})
prompt = "".join(f"<{task}_{{i}}>" for i in range({length}))
batch = tokenizer([{text}], return_tensors="pt", padding=True{special})
answers = model.generate(**batch, max_new_tokens={longest})
print(tokenizer.batch_decode(answers, skip_special_tokens=True))
"""


@dataclass(frozen=True)
class _Placed:
    """A prompt, its tokens, and the row of the embedding table that the first of them is."""

    entry: StoredPrompt
    tokens: list[str]
    first: int


def write(predictor: Predictor, folder: Path) -> None:
    """Checkpoint and tokenizer, what is known of the prompts, and a card."""
    check_family(predictor.trunk, "vocabulary")
    entries = [stored_prompt(one) for one in predictor.prompts.values()]
    source = find_folder(checkpoint_of(predictor.trunk.name))
    model, tokenizer = load_checkpoint(source, torch.float32)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    placed = _placed(entries, len(weights[TABLE]))
    _add_tokens(tokenizer, placed, len(weights[TABLE]))
    tokenizer.save_pretrained(folder)
    prompts = torch.cat([entry.values for entry in entries])
    head = _head(model, weights)
    weights[TABLE] = torch.cat([weights[TABLE], prompts])
    weights[HEAD] = torch.cat([head, head.double().mean(0).float().expand(len(prompts), -1)])
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors", _METADATA)
    write_json(folder / "config.json", read_config(source) | _settings(len(weights[TABLE])))
    model.generation_config.save_pretrained(folder)
    write_json(folder / VOCABULARY, {one.entry.task: _manifest(one) for one in placed})
    write_text(folder / "README.md", _card(predictor, placed))


def _settings(rows: int) -> dict[str, Any]:
    """What differs from the trunk's configuration. `scale_decoder_outputs` is what transformers 5 goes by."""
    return {"vocab_size": rows, "tie_word_embeddings": False, "scale_decoder_outputs": False, "dtype": "float32"}


def _placed(entries: list[StoredPrompt], rows: int) -> list[_Placed]:
    placed = []
    for entry in entries:
        placed.append(_Placed(entry, [f"<{entry.task}_{i}>" for i in range(entry.length)], rows))
        rows += entry.length
    return placed


def _add_tokens(tokenizer: PreTrainedTokenizerBase, placed: list[_Placed], rows: int) -> None:
    """Add the prompts' tokens behind the `rows` of the trunk, of which published checkpoints have more than tokens.

    Raises `InputError` where the tokenizer has a token of such a name.
    """
    from transformers import AddedToken

    known = tokenizer.get_vocab()
    tokens = [token for one in placed for token in one.tokens]
    if taken := next((token for token in tokens if token in known), None):
        raise InputError(
            f"the trunk's tokenizer has a token {taken} of its own: no task can be called so in this format"
        )
    spare = [f"<unused_{i}>" for i in range(rows - len(tokenizer))]
    # A space behind one is its own: whether there is one or none, the text's tokens are what they are without prompt.
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False, rstrip=True) for t in spare + tokens], True)
    assert tokenizer.convert_tokens_to_ids(tokens[0]) == placed[0].first


def _head(model: PreTrainedModel, weights: dict[str, Tensor]) -> Tensor:
    """The rows of the trunk's head (V, d) as one that is not tied has them."""
    scaled = getattr(model.config, "scale_decoder_outputs", False)
    return weights.get(HEAD, weights[TABLE]) * (model.config.d_model**-0.5 if scaled else 1.0)


def _manifest(one: _Placed) -> dict[str, Any]:
    return manifest_of(*one.entry.artifact()) | {"rows": [one.first, one.first + one.entry.length]}


def _card(predictor: Predictor, placed: list[_Placed]) -> str:
    entries, first = [one.entry for one in placed], placed[0].entry
    title = f"{predictor.trunk.name} with soft prompts in its vocabulary"
    prepend = first.text.prompt_position == "prepend"
    text = card.text_of(first)
    lines = LOAD.format(
        dtype=card.dtype_argument(first),
        task=first.task,
        length=first.length,
        text=f"prompt + {json.dumps(f' {text}')}" if prepend else f"{json.dumps(f'{text}</s>')} + prompt",
        special="" if prepend else ", add_special_tokens=False",
        longest=longest_label(predictor),
    )
    where = (
        "The prompt stands before the text"
        if prepend
        else "The prompt stands behind the text and its `</s>`, and nothing follows: `add_special_tokens=False`"
    )
    return (
        f"{card.metadata(entries, 'transformers', None, title)}\n# {title}\n\n"
        f"Text alone says which task is meant: each prompt is a run of tokens, sent whole. {where}.\n\n"
        f"{card.table(entries, [_sent(one, prepend) for one in placed])}\n"
        "Weights and prompts are fp32. A text that holds the name of such a token is read as that token.\n\n"
        f"Load it, here with this folder as the current one:\n\n```python\n{lines}```\n"
    )


def _sent(one: _Placed, prepend: bool) -> str:
    """What is sent to a task, with the first and the last of its tokens."""
    prompt, text = f"{one.tokens[0]}...{one.tokens[-1]}", card.text_of(one.entry)
    return f"{prompt} {text}" if prepend else f"{text}</s>{prompt}"


ENTRY = Export(write)
