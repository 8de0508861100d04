"""Trackers with their own packages, offline: nothing twice and nothing missing after a kill, no secret, no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compt_fast.training.trackers import TRACKERS
from compt_fast.utils.registry import summary

SECRET = "a5ecretkey0123456789a5ecretkey0123456789"


def test_every_tracker_says_what_it_is_and_needs() -> None:
    assert list(TRACKERS) == ["tensorboard", "trackio", "wandb", "mlflow"]
    assert all(entry.packages for entry in TRACKERS.values())
    assert all("RUN/" in summary("compt_fast.training.trackers", name) for name in TRACKERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb", "mlflow"])
def test_a_job_that_is_killed_and_goes_on(name: str, tmp_path: Path, repository: Path) -> None:
    secrets = dict.fromkeys(("WANDB_API_KEY", "HF_TOKEN", "MLFLOW_TRACKING_TOKEN"), SECRET)
    line = [sys.executable, "-m", "tests.helpers.tracked", name, str(tmp_path)]
    done = subprocess.run(line, cwd=repository, env=os.environ | secrets, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    numbers, config = content["numbers"], content["config"]
    ascending = [[step, float(step)] for step in range(1, 13)]
    assert numbers["loss"] == ascending, "each step once"
    for curve, value in (("gradient_norm", 0.5), ("tokens_per_second", 9.0), ("learning_rate/source", 0.25)):
        assert numbers[curve] == [[step, value] for step, _ in ascending]
    for score in ("development/average", "development/rte/accuracy", "final/average", "final/rte/accuracy"):
        assert numbers[score] == [[12, 75.0]]
    told = config if isinstance(config, str) else json.dumps(config)
    assert all(word in told for word in ("lr_source", "0.07", tmp_path.name))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.relative_to(tmp_path).parts[0] for path in written} == {name, "metrics.jsonl", "tracked.json"}
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
