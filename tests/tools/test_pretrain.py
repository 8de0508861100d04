"""The recipe: the same stream for the same seed, and a run that resumes to the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import PreTrainedTokenizerBase, T5ForConditionalGeneration

from compt_fast import mini
from compt_fast.mini import styles
from compt_fast.mini.stream import Stream, draw_example
from compt_fast.tasks.table import MAKERS
from tests.mini.test_rows import sentences
from tools import pretrain, vocabulary
from tools import trunk_report as report
from tools.pretrain import Recipe, Trainer, train

TINY = Recipe(steps=6, batch_size=8, warmup=2, d_model=32, d_ff=32, heads=2, encoder_layers=1, decoder_layers=1)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return vocabulary.build()


def run(trainer: Trainer, until: int) -> None:
    train(trainer, until, checkpoint_every=3, report_size=2, workers=0, autocast=False)


def test_resumed_run_ends_in_the_same_bits(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    whole = Trainer(TINY, tokenizer, tmp_path / "whole")
    run(whole, 6)
    run(Trainer(TINY, tokenizer, tmp_path / "parts"), 3)
    resumed = Trainer(TINY, tokenizer, tmp_path / "parts")
    resumed.restore()
    assert resumed.step == 3
    run(resumed, 6)
    for (name, one), two in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, two), name
    assert [path.name for path in (tmp_path / "parts").glob("checkpoint-*")] == ["checkpoint-6"]


def test_a_folder_in_the_way_and_one_without_a_checkpoint_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain.main([f"--out={tmp_path}"]) == 2
    assert capsys.readouterr().err == (
        f"error: --out {tmp_path}: File exists; name a new folder, or go on with --resume\n"
    )
    assert pretrain.main([f"--out={tmp_path}", "--resume"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --resume: {tmp_path} holds no checkpoint to go on from") and said.count("\n") == 1


def test_a_trunk_is_measured_anew_as_it_was_in_training(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(Trainer(TINY, tokenizer, tmp_path), 3)
    written = json.loads((tmp_path / "trunk" / "report.json").read_text())
    assert (written["held_out"], written["step"], written["examples"]) == (2, 3, 24)
    capsys.readouterr()
    assert report.main([str(tmp_path / "trunk"), "--size=2"]) == 0
    assert json.loads(capsys.readouterr().out) == written
    assert report.main([str(tmp_path / "trunk"), "--size=1"]) == 0
    assert json.loads(capsys.readouterr().out)["held_out"] == 1
    assert report.main([str(tmp_path)]) == 2
    assert "no trunk with a report.json" in capsys.readouterr().err


def test_the_shipped_report_has_the_keys_that_the_recipe_writes(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    shipped = json.loads((Path(mini.__file__).parent / "weights" / "report.json").read_text())
    written = pretrain.make_report(Trainer(TINY, tokenizer, tmp_path), 1)
    assert list(shipped) == list(written) and shipped["skills"].keys() == written["skills"].keys()
    assert shipped["examples"] == shipped["step"] * shipped["recipe"]["batch_size"]


def test_shipped_folder_loads(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    trainer = Trainer(TINY, tokenizer, tmp_path)
    trainer.ship(tmp_path / "trunk", {"skills": {}})
    loaded = T5ForConditionalGeneration.from_pretrained(tmp_path / "trunk")
    assert torch.equal(loaded.shared.weight, trainer.model.shared.weight)


def test_stream_depends_on_seed_and_step_only(tokenizer: PreTrainedTokenizerBase) -> None:
    stream, again = (Stream(tokenizer, 8, 10) for _ in range(2))
    assert torch.equal(stream[7][0]["input_ids"], again[7][0]["input_ids"])
    assert stream[6][0]["input_ids"].tolist() != stream[7][0]["input_ids"].tolist()


def test_stream_uses_no_sentence_of_the_suites() -> None:
    used = {
        s
        for task, maker in MAKERS.items()
        for part in ("train", "validation")
        for row in maker.draw(task, part, 100)
        for s in sentences(row)
    }
    rng = Random(0)
    for _ in range(400):
        _, source, _ = draw_example(rng, 0.5)
        assert not any(sentence in source for sentence in used if len(sentence) > 12)


def test_skills_never_use_the_suites_words_for_them() -> None:
    rng = Random(0)
    for name, style in styles.STYLES.items():
        for _ in range(100):
            source, target = styles.skill_example(name, "pretrain", rng, free=1.0)
            assert target not in style.foreign
            assert not set(source.split(" : ")[0].split()) & set(style.foreign)
