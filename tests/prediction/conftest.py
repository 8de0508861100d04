"""Trained prompts to predict with, and what `evaluate` says that they answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compt_fast import evaluate, train
from tests.helpers import jobs

Records = list[dict[str, Any]]
"""Of `evaluate --predictions`, each with its row's `columns`."""


@pytest.fixture(scope="session")
def runs(tiny_t5: Path, toys: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of three tasks: prompts of each row (spp, scp), and tasks apart (pt)."""
    out = tmp_path_factory.mktemp("runs") / "run"
    chosen = jobs.settings(tiny_t5, toys, method="spp,scp,pt", gates="input", lr_private=0.3, eval_size=12)
    assert train.main(jobs.arguments(chosen, out)) == 0
    return out


@pytest.fixture(scope="session")
def other(tiny_t5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of one other task, whose prompt is longer."""
    folder = tmp_path_factory.mktemp("other")
    chosen = jobs.settings(tiny_t5, [jobs.toy_task(folder, "toy_d")], prompt_length=5, method="pt-joint", eval_size=12)
    assert train.main(jobs.arguments(chosen, folder / "run")) == 0
    return folder / "run"


def evaluated(folder: Path, place: Path, *flags: str) -> Records:
    """What `evaluate` says that a folder's runs answer."""
    assert evaluate.main([str(folder), f"--predictions={place}", *flags]) == 0
    records = [json.loads(line) for line in place.read_text().splitlines()]
    for record in records:
        file, _, line = record["where"].rpartition(":")
        record["columns"] = json.loads(Path(file).read_text().splitlines()[int(line) - 1])
    return records


@pytest.fixture(scope="session")
def written(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Records:
    """What the runs of `runs` write."""
    return evaluated(runs, tmp_path_factory.mktemp("written") / "rows.jsonl", "--scoring=generate")


@pytest.fixture(scope="session")
def ranked(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Records:
    """The labels that the runs of `runs` find the most likely."""
    return evaluated(runs, tmp_path_factory.mktemp("ranked") / "rows.jsonl", "--scoring=rank")
