"""The random checkpoints that other tests stand on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoTokenizer

from tests.helpers import tiny_t5
from tests.helpers.tiny_t5 import FAMILIES, make_t5, tiny_tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seed_gives_the_same_files_and_another_seed_others(family: str, tmp_path: Path) -> None:
    contents = [
        (make_t5(tmp_path / str(number), family, seed=seed) / "model.safetensors").read_bytes()
        for number, seed in enumerate((0, 0, 1))
    ]
    assert contents[0] == contents[1] != contents[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_names_and_settings_are_the_published_ones(family: str, tmp_path: Path) -> None:
    make_t5(tmp_path, family)
    config = json.loads((tmp_path / "config.json").read_text())
    with safe_open(tmp_path / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    gated = family != "t5"
    wi = "encoder.block.0.layer.1.DenseReluDense.wi"
    assert ({f"{wi}_0.weight", f"{wi}_1.weight"} <= names) == gated
    assert (f"{wi}.weight" in names) == ("lm_head.weight" not in names) == (not gated)
    assert config["model_type"] == ("mt5" if family == "mt5" else "t5")
    assert config.get("tie_word_embeddings", True) != gated
    assert "shared.weight" in names and "decoder.block.2.layer.1.EncDecAttention.k.weight" in names


def test_the_tiny_tokenizer_reads_and_writes_text(tmp_path: Path) -> None:
    text = "rte: sentence1: the dog isn't Zed's #7 <extra_id_0>"
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids and ids[-1] == tokenizer.eos_token_id == 1
    assert tokenizer.decode(ids, skip_special_tokens=False).startswith(text[:30])
    assert AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == ids


def test_the_command_writes_a_checkpoint(tmp_path: Path, monkeypatch, capsys) -> None:
    folder = tmp_path / "new" / "trunk"
    monkeypatch.setattr(sys, "argv", ["tiny_t5", str(folder), "--family", "mt5", "--seed", "3"])
    tiny_t5.main()
    assert capsys.readouterr().out.strip() == str(folder)
    expected = make_t5(tmp_path / "same", "mt5", seed=3)
    assert (folder / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown family 'bart'"):
        make_t5(tmp_path, "bart")
