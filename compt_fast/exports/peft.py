"""PEFT: an adapter a task, for `PeftModel.from_pretrained` over the trunk as transformers loads it.

An adapter is a folder of the task's name with `adapter_config.json`, `adapter_model.safetensors` and a model card. Our
manifest lies beside, which PEFT does not look at: with it `store add` and `compt_fast.load` bring everything back. PEFT
puts a prompt before the text and nowhere else. A trunk that is no name on the hub is copied to `trunk/`. Where prompts
of several tasks are equally long, `all/` is one adapter of all of them, which answers rows of any tasks in one batch;
not over a causal language model, which PEFT tells no positions, so that it would count the padding of such a batch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from compt_fast.exports import Export
from compt_fast.models.checkpoint import OTHER_TOKENIZERS, find_folder, weight_files
from compt_fast.models.families import T5
from compt_fast.prediction.stored import longest_label, stored_prompt
from compt_fast.prompts import card
from compt_fast.prompts.artifact import MANIFEST, manifest_of
from compt_fast.prompts.foreign import ADAPTER, ADAPTER_WEIGHTS, PEFT_TENSOR
from compt_fast.prompts.store import StoredPrompt
from compt_fast.runs.job import checkpoint_of
from compt_fast.tasks.text import frame_of
from compt_fast.utils.errors import InputError
from compt_fast.utils.files import write_json, write_text

if TYPE_CHECKING:
    from compt_fast.prediction.predictor import Predictor

TRUNK, ALL = "trunk", "all"
"""The folders of the trunk's copy and of the adapter of all tasks, beside those of the tasks."""

LOAD = """from peft import PeftModel
from transformers import {auto}, AutoTokenizer

trunk = "{trunk}"
tokenizer = AutoTokenizer.from_pretrained(trunk)
model = PeftModel.from_pretrained({auto}.from_pretrained(trunk{dtype}), "{place}")
{more}batch = tokenizer([{text}], return_tensors="pt"{padding}{special})
answers = model.generate(**batch, max_new_tokens={longest}{greedy}){written}
print(tokenizer.batch_decode(answers, skip_special_tokens=True))
"""


_ONE_LENGTH = "\nRows of one batch have to be equally long: PEFT would count padding among their positions.\n"

LOAD_ALL = """import torch
from peft import PeftModel
from transformers import {auto}, AutoTokenizer

trunk = "{trunk}"
tasks = {tasks}
tokenizer = AutoTokenizer.from_pretrained(trunk)
model = PeftModel.from_pretrained({auto}.from_pretrained(trunk{dtype}), "all")
batch = tokenizer({texts}, return_tensors="pt", padding=True{special})
task_ids = torch.tensor([tasks.index(task) for task in {named}])
answers = model.generate(**batch, task_ids=task_ids, max_new_tokens={longest}{greedy}){written}
print(tokenizer.batch_decode(answers, skip_special_tokens=True))
"""


def how_to_read(predictor: Predictor) -> dict[str, Any]:
    """What the lines of `LOAD` and `LOAD_ALL` say of a trunk of this family: a causal language model gives back what it
    read; and what a checkpoint would rather generate than greedy answers is switched off.
    """
    trunk, frame = predictor.trunk, frame_of(predictor.trunk.tokenizer)
    alone = trunk.tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = trunk.tokenizer("a")["input_ids"] == [*frame.before, *alone, *frame.after]
    # What transformers writes beside an answer, whatever the model says, as BART's <s> and </s>, and counts.
    forced = getattr(trunk, "forced_tokens", 0)
    return {
        "auto": "AutoModelForCausalLM" if trunk.continues else "AutoModelForSeq2SeqLM",
        "padding": "" if trunk.continues else ", padding=True",
        "special": "" if framed else ", add_special_tokens=False",
        "longest": longest_label(predictor) + forced,
        "greedy": "" if trunk.family in T5.classes() else ", do_sample=False, num_beams=1, no_repeat_ngram_size=0",
        "written": '[:, batch["input_ids"].shape[1] :]' if trunk.continues else "",
    }


def write(predictor: Predictor, folder: Path) -> None:
    """An adapter's folder a task, one of all tasks, the trunk where the hub has it not, and a card."""
    entries = [stored_prompt(one) for one in predictor.prompts.values()]
    name, position = predictor.trunk.name, entries[0].text.prompt_position
    if position != "prepend":
        raise InputError(f"PEFT puts a prompt before the text, and these stand behind it (prompt position {position})")
    if taken := next((task for task in (TRUNK, ALL) if task in predictor.prompts), None):
        raise InputError(f"a task is called {taken}, as another folder of this format is: export the others without it")
    hub = is_hub_name(name)
    if not hub:
        copy_checkpoint(find_folder(checkpoint_of(name)), folder / TRUNK)
    for entry in entries:
        _adapter(predictor, entry, folder / entry.task, name if hub else f"../{TRUNK}")
    if _in_one(predictor, entries):
        _adapter_of_all(predictor, entries, folder / ALL, name if hub else f"../{TRUNK}")
    write_text(folder / "README.md", _card_of_all(predictor, entries, name if hub else TRUNK))


def is_hub_name(trunk: str) -> bool:
    """Whether a trunk is called by its name on the hub: it is neither the embedded one nor a folder here."""
    return trunk != "mini" and not Path(trunk).expanduser().is_dir()


def copy_checkpoint(source: Path, folder: Path) -> None:
    """Copy configuration, weights and tokenizer of a checkpoint into a new folder."""
    folder.mkdir()
    others = [path for path in source.iterdir() if path.suffix in (".json", ".model") or path.name in OTHER_TOKENIZERS]
    for path in {*filter(Path.is_file, others), *weight_files(source)}:
        shutil.copyfile(path, folder / path.name)


def _adapter(predictor: Predictor, entry: StoredPrompt, folder: Path, trunk: str) -> None:
    """The adapter of one task."""
    kind = {"peft_type": "PROMPT_TUNING", "base_model_name_or_path": trunk}
    _save(folder, entry, {PEFT_TENSOR: entry.values}, kind | _task_type(predictor))
    write_json(folder / MANIFEST, manifest_of(*entry.artifact()))
    title = f"{entry.task}, a soft prompt for {entry.trunk.name}"
    hub = None if trunk == f"../{TRUNK}" else trunk
    lines = [
        f"{card.metadata([entry], 'peft', hub, title)}\n# {title}\n\n{card.about(entry)}",
        f"Load it, here with this folder as the current one:\n\n```python\n{_lines(predictor, entry, trunk, '.')}```\n",
    ]
    write_text(folder / "README.md", "\n".join(lines))


def _in_one(predictor: Predictor, entries: Sequence[StoredPrompt]) -> bool:
    """Whether there are several prompts, one adapter can hold them, and batches of them are answered rightly."""
    return len(entries) > 1 and len({entry.length for entry in entries}) == 1 and not predictor.trunk.continues


def _task_type(predictor: Predictor) -> dict[str, Any]:
    """What PEFT is told of the trunk's family; of an encoder-decoder the encoder alone reads the prompt."""
    return {"task_type": "CAUSAL_LM" if predictor.trunk.continues else "SEQ_2_SEQ_LM"}


def _adapter_of_all(predictor: Predictor, entries: Sequence[StoredPrompt], folder: Path, trunk: str) -> None:
    """The adapter of all tasks: PEFT's multitask prompt tuning, P * (U_k V_k) for task k, with P of ones, U_k the
    identity and V_k the task's prompt, so that not a bit of it changes.
    """
    length = entries[0].length
    tensors = {
        PEFT_TENSOR: torch.ones(length, entries[0].d_model),
        "prefix_task_cols": torch.eye(length).expand(len(entries), -1, -1),
        "prefix_task_rows": torch.stack([entry.values for entry in entries]),
    }
    kind = {"peft_type": "MULTITASK_PROMPT_TUNING", "num_ranks": length, "num_tasks": len(entries)}
    _save(folder, entries[0], tensors, kind | {"base_model_name_or_path": trunk} | _task_type(predictor))


def _save(folder: Path, entry: StoredPrompt, tensors: dict[str, Tensor], kind: dict[str, Any]) -> None:
    """An adapter's tensors and configuration, which holds what every version of PEFT knows, and no more."""
    folder.mkdir()
    settings = {
        "inference_mode": True,
        "num_virtual_tokens": entry.length,
        "token_dim": entry.d_model,
        "num_transformer_submodules": 1,
    }
    write_json(folder / ADAPTER, kind | settings)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def _card_of_all(predictor: Predictor, entries: list[StoredPrompt], trunk: str) -> str:
    title = f"Soft prompts for {predictor.trunk.name}"
    lines = _lines(predictor, entries[0], trunk, entries[0].task, [entry.task for entry in entries])
    table = card.table(entries, [card.text_of(entry) for entry in entries])
    head = card.metadata(entries, "peft", None if trunk == TRUNK else trunk, title)
    return (
        f"{head}\n# {title}\n\nAn adapter of PEFT a task, each in a folder of its own.\n\n{table}\n"
        "Load all of them, here with this folder as the current one; of a repository on the hub each folder's name is "
        f"the argument `subfolder`:\n\n```python\n{lines}```\n"
        + (_ONE_LENGTH if predictor.trunk.continues else "")
        + (_part_on_all(predictor, entries, trunk) if _in_one(predictor, entries) else "")
    )


def _part_on_all(predictor: Predictor, entries: Sequence[StoredPrompt], trunk: str) -> str:
    """What a card says of the adapter of all tasks."""
    lines = LOAD_ALL.format(
        trunk=trunk,
        tasks=json.dumps([entry.task for entry in entries]),
        dtype=card.dtype_argument(entries[0]),
        texts=json.dumps([card.text_of(entry) for entry in entries[:2]]),
        named=json.dumps([entry.task for entry in entries[:2]]),
        **how_to_read(predictor),
    )
    return (
        f"\n`{ALL}/` holds the same prompts in one adapter: rows of any tasks make a batch, each with the number of "
        f"its task.\n\n```python\n{lines}```\n"
    )


def _lines(predictor: Predictor, entry: StoredPrompt, trunk: str, place: str, all_tasks: Sequence[str] = ()) -> str:
    """The lines of Python that load an adapter, or those of all tasks, and answer a text by it."""
    others = f"for task in {json.dumps(all_tasks)}:\n    model.load_adapter(task, task)\n"
    return LOAD.format(
        trunk=trunk,
        dtype=card.dtype_argument(entry),
        place=place,
        more=f'{others}model.set_adapter("{entry.task}")\n' if all_tasks else "",
        text=json.dumps(card.text_of(entry)),
        **how_to_read(predictor),
    )


ENTRY = Export(write)
