"""Stored prompts applied in int8."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import compt_fast
from compt_fast import evaluate, train
from compt_fast.config.job import JobSettings
from compt_fast.runs import job
from compt_fast.runs.job import named_trunk, settled_dtype
from compt_fast.runs.loaded import load_job
from compt_fast.utils.errors import InputError

RUN = "spp-n3-k16-s0"
INT8 = {"dtype": "int8"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short training on two of the embedded tasks."""
    out = tmp_path_factory.mktemp("int8") / "run"
    flags = ["--tasks", "mini_rte,mini_sst2", "--steps", "60", "--eval-size", "150", "--dtype", "fp32"]
    assert train.main([*flags, "--method", "spp", "--device", "cpu", "--out", str(out)]) == 0
    return out


def answers(folder: Path, dtype: str) -> list[str]:
    ((_, predicted),) = load_job(folder, {"dtype": dtype}).predict([(RUN, None)])
    return [text for texts in predicted for text in texts]


def test_it_answers_as_fp32_does(folder: Path) -> None:
    exact, whole = answers(folder, "fp32"), answers(folder, "int8")
    assert sum(a == b for a, b in zip(exact, whole, strict=True)) >= 0.97 * len(exact) == 0.97 * 300


def test_the_trunk_is_that_of_the_training(folder: Path) -> None:
    loaded, exact = load_job(folder, INT8), load_job(folder, {})
    assert loaded.job.settings.dtype == "int8" and loaded.trained_on == exact.job.trunk_hash
    assert loaded.prompts(RUN).shape == exact.prompts(RUN).shape
    predictor = compt_fast.load(folder, dtype="int8")
    assert predictor.trunk.fingerprint() == exact.job.trunk_hash
    row = {"sentence1": "a good film"}
    assert predictor.predict(row, "mini_sst2").label in ("positive", "negative")


def test_evaluate_takes_it_and_training_refuses_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(folder), "--dtype", "int8", "--eval-size", "20"]) == 0
    capsys.readouterr()
    assert train.main(["--tasks", "mini_rte", "--dtype", "int8", "--out", str(folder / "no")]) == 2
    error = capsys.readouterr().err
    assert (
        error == "error: --dtype int8 scores and predicts with prompts that are trained; train them in fp32 or bf16\n"
    )
    assert not (folder / "no").exists()


@pytest.mark.parametrize(("bf16", "instead"), [(None, "fp32"), ("avx512_bf16", "bf16")])
def test_without_vnni_a_line_says_what_is_taken_instead(
    bf16: str | None, instead: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "cpu", lambda: {"int8": None, "bf16": bf16})
    predictor = compt_fast.load(folder, dtype="int8")
    assert predictor.trunk.dtype == job.DTYPES[instead]
    line = f"--dtype int8: this processor has no VNNI instructions; computing in {instead}\n"
    assert capsys.readouterr().err == line
    assert load_job(folder, INT8).job.settings.dtype == instead
    assert capsys.readouterr().err == line


def test_what_it_is_made_of_has_to_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = JobSettings(dtype="int8", device="cpu")
    for made_of in (None, "auto", "int8"):
        with pytest.raises(InputError, match="train them in fp32 or bf16"):
            named_trunk(settings, made_of)
    assert named_trunk(settings, "bf16").fingerprint() == named_trunk(JobSettings(dtype="bf16")).fingerprint()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert settled_dtype(JobSettings(dtype="int8", device="cuda")) == "int8", "the engine refuses it"
