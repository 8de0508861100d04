"""A predictor of every embedded task, trained for a moment, what it answers, and its exports."""

from __future__ import annotations

from pathlib import Path

import pytest

import compt_fast
from compt_fast import train
from compt_fast.exports import write_export
from compt_fast.prediction.predictor import Predictor
from compt_fast.tasks.table import MAKERS
from tests.helpers.exported import Answers, Rows, drawn, own_answers

COUNT = 40  # rows a task; `python -m tests.helpers.exported RUN` takes 300


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder over the embedded trunk: one run, all its tasks."""
    out = tmp_path_factory.mktemp("embedded") / "run"
    flags = {"method": "pt-joint", "steps": 12, "shots": 8, "batch-size": 13, "prompt-length": 8, "eval-size": 2}
    line = [f"--{name}={value}" for name, value in flags.items()]
    assert train.main([*line, f"--tasks={','.join(MAKERS)}", "--init=vocab", f"--out={out}"]) == 0
    return out


@pytest.fixture(scope="session")
def predictor(run: Path) -> Predictor:
    """Of the run's prompts."""
    return compt_fast.load(run)


@pytest.fixture(scope="session")
def rows(predictor: Predictor) -> Rows:
    """Rows of every task."""
    return drawn(list(predictor.prompts), COUNT)


@pytest.fixture(scope="session")
def answers(predictor: Predictor, rows: Rows) -> Answers:
    """What the predictor writes for them."""
    found = own_answers(predictor, rows)
    assert sum(len(set(texts)) > 1 for texts in found.values()) > 5, "answers that are all alike show nothing"
    return found


@pytest.fixture(scope="session")
def adapters(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export `peft`."""
    folder = tmp_path_factory.mktemp("peft") / "adapters"
    write_export(predictor, "peft", folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export `vocabulary`."""
    folder = tmp_path_factory.mktemp("vocabulary") / "checkpoint"
    write_export(predictor, "vocabulary", folder)
    return folder
