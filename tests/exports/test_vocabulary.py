"""Prompts as tokens of a checkpoint: the same strings elsewhere, tokens that are never written, the way back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import compt_fast
from compt_fast.exports import write_export
from compt_fast.prediction.predictor import Predictor
from compt_fast.prediction.stored import longest_label
from compt_fast.prompts.foreign import read_exported
from compt_fast.tasks.text import input_text, read_input
from compt_fast.utils.errors import InputError
from tests.helpers.exported import Answers, Rows, compared, made_predictor
from tests.helpers.shared import real
from tests.helpers.tiny_t5 import FAMILIES, make_t5

ODD = ("(a) dog", "  two  spaces ", "a\ttab, 12,3", "▁mark", "ünï «x»", "<b>", "rte:", "a </b> city.", "\u00a0a")


def test_transformers_alone_writes_the_same_strings(
    checkpoint: Path, predictor: Predictor, rows: Rows, answers: Answers
) -> None:
    assert compared(predictor, rows, "transformers", checkpoint) == answers


def test_ctranslate2_writes_the_same_strings(
    checkpoint: Path, predictor: Predictor, rows: Rows, answers: Answers
) -> None:
    pytest.importorskip("ctranslate2", reason="needs the extra bench: pip install -e '.[bench]'")
    assert compared(predictor, rows, "ctranslate2", checkpoint) == answers


@pytest.mark.parametrize("position", ["prepend", "append"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_in_both_places(family: str, position: str, tmp_path: Path) -> None:
    """Random heads write every token there is, those without a name too."""
    trunk = make_t5(tmp_path / "trunk", family)
    predictor = made_predictor(trunk, tmp_path / "store", prompt_position=position)
    write_export(predictor, "vocabulary", tmp_path / "out")
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    task, prompt, rows = predictor.tasks["rte"], "<rte_0><rte_1><rte_2>", [(text, f"the {text}") for text in ODD]
    texts = [input_text(task, row, prefix=True) for row in rows]
    prepend = position == "prepend"
    sent = [f"{prompt} {text}" if prepend else f"{text}</s>{prompt}" for text in texts]
    for row, text in zip(rows, sent, strict=True):
        ids = tokenizer(text, add_special_tokens=prepend)["input_ids"]
        alone = read_input(task, row, predictor.trunk.tokenizer, prefix=True).cut(200)
        assert (ids[3:] if prepend else ids[:-3]) == alone
        assert not prepend or ids == tokenizer(text.replace("> rte:", ">rte:"))["input_ids"]
    batch = tokenizer(sent, return_tensors="pt", padding=True, add_special_tokens=prepend)
    # without a cache, which transformers makes as deep as the encoder is
    ids = model.generate(**batch, max_new_tokens=longest_label(predictor), use_cache=False)
    written = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    ours = predictor.predict([dict(zip(("sentence1", "sentence2"), row, strict=True)) for row in rows])
    assert written == [answer.text for answer in ours]


@pytest.mark.parametrize("family", ["t5", "flan", "mt5"])
def test_a_prompts_token_is_never_the_most_likely(family: str, tmp_path: Path) -> None:
    """Its logit is the mean of the trunk's, which stay what they were; so it is below the largest."""
    trunk = make_t5(tmp_path / "trunk", family)
    write_export(made_predictor(trunk, tmp_path / "store"), "vocabulary", tmp_path / "out")
    before, after = (AutoModelForSeq2SeqLM.from_pretrained(tmp_path / name) for name in ("trunk", "out"))
    rows = before.config.vocab_size
    ids = torch.arange(3, 60).view(3, 19)
    with torch.no_grad():
        old, new = (model(input_ids=ids, decoder_input_ids=ids).logits for model in (before, after))
    assert new.shape[-1] == rows + 3
    torch.testing.assert_close(new[..., :rows], old)
    torch.testing.assert_close(new[..., rows:], old.mean(-1, keepdim=True).expand(-1, -1, 3), atol=1e-5, rtol=1e-4)
    assert (new[..., rows:].amax(-1) < old.amax(-1) - 1).all()


def test_a_published_tokenizer_reads_the_text_as_before(tmp_path: Path) -> None:
    """Where its files are; each of them decides anew what becomes of a space beside a token."""
    own = real("t5-tokenizer")
    trunk = make_t5(tmp_path / "trunk", tokenizer=own)
    write_export(made_predictor(trunk, tmp_path / "store"), "vocabulary", tmp_path / "out")
    before, after = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("trunk", "out"))
    for text in ODD:
        for space in ("", " "):
            assert after(f"<rte_0><rte_1><rte_2>{space}{text}")["input_ids"][3:] == before(text)["input_ids"]


def test_the_rows_come_back_bit_for_bit(checkpoint: Path, predictor: Predictor, rows: Rows, answers: Answers) -> None:
    back = compt_fast.load(checkpoint)
    for task, one in predictor.prompts.items():
        assert back.tasks[task] == one.task and back.prompts[task].text == one.text
        values = back.prompts[task].prompts.tensors["targets"][0]
        assert torch.equal(values, one.prompts.tensors["targets"][one.index])
    assert [answer.text for answer in back.predict(rows["mini_qqp"], "mini_qqp")] == answers["mini_qqp"]


def test_a_damaged_checkpoint_is_named(tiny_t5: Path, tmp_path: Path) -> None:
    write_export(made_predictor(tiny_t5, tmp_path / "store"), "vocabulary", tmp_path / "out")
    path, weights = tmp_path / "out" / "prompts.json", tmp_path / "out" / "model.safetensors"
    whole = json.loads(path.read_text())

    def refused(**changes: object) -> str:
        path.write_text(json.dumps({"rte": whole["rte"] | changes}))
        with pytest.raises(InputError) as caught:
            read_exported(tmp_path / "out")
        return str(caught.value)

    assert "its values are not those its manifest" in refused(rows=[3, 6])
    assert "has 387 rows, and the prompt is said to be in 400:403" in refused(rows=[400, 403])
    assert "rows must be the first row of the prompt" in refused(rows="3")
    assert "kind must be a text" in refused(kind=3)
    path.write_text("[]")
    with pytest.raises(InputError, match="not the prompts of a vocabulary"):
        read_exported(tmp_path / "out")
    path.write_text(json.dumps(whole))
    tensors = load_file(weights)
    save_file({"other": tensors["shared.weight"]}, weights)
    with pytest.raises(InputError, match=r"shared\.weight cannot be read"):
        read_exported(tmp_path / "out")


def test_a_token_that_is_there_already_is_refused(tiny_t5: Path, tmp_path: Path) -> None:
    predictor = made_predictor(tiny_t5, tmp_path / "store", task="extra_id")
    with pytest.raises(InputError, match="the trunk's tokenizer has a token <extra_id_0> of its own"):
        write_export(predictor, "vocabulary", tmp_path / "out")
