"""What a fleet saves: one training step of R runs in one pass, against R steps of one run each; and the scoring of 27
runs in passes over the rows of all, against each run's by itself.

    pytest benchmarks/ --benchmark-only

The embedded tasks and trunk, 16 rows a run. `rows_per_second` of R runs over that of one is the
saving; a fleet's losses are compared with those of the runs alone before anything is timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from rich.console import Console

from benchmarks.bench_trunk import timed
from compt_fast.config.flags import read_flags
from compt_fast.evaluation.evaluator import Predicted, predict
from compt_fast.evaluation.passes import Asked
from compt_fast.runs.job import Job, open_job
from compt_fast.training.loop import Trainer
from compt_fast.training.monitor import Monitor

RUNS = [1, 3, 9, 27]
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}  # products round by their batch, in the trunk's dtype
ENDLESS = 1_000_000  # steps: no run ends while it is timed


def opened(rows: int = 1) -> Job:
    """27 runs of the embedded suite: spp with nine seeds and three learning rates; so many rows a task to score."""
    seeds = ",".join(map(str, range(9)))
    given = {"method": "spp", "seeds": seeds, "lr_private": "0.01,0.02,0.05", "steps": str(ENDLESS)}
    return open_job(read_flags(given | {"eval_size": str(rows), "runs_at_once": "27"}, None))


@pytest.fixture(scope="module")
def job() -> Job:
    return opened()


def trainer_of(job: Job, runs: slice, folder: Path, graphs: bool = False) -> tuple[Trainer, Monitor]:
    """Some of the job's runs, admitted and ready for a step."""
    settings = replace(job.settings, cuda_graphs=graphs)
    trainer = Trainer(job.runs[runs], job.trunk, job.trunk_hash, job.data, settings, folder)
    trainer.refill()
    return trainer, Monitor(folder, ENDLESS, Console(quiet=True))


def losses_of_first_step(job: Job, runs: slice, folder: Path, graphs: bool = False) -> list[float]:
    """Every run's loss in its first step."""
    folder.mkdir()
    trainer, monitor = trainer_of(job, runs, folder, graphs)
    with monitor:
        return [record["loss"] for record in trainer.train_step(monitor)]


@pytest.mark.parametrize("runs", RUNS)
def test_step(job: Job, runs: int, tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    """One step of `runs` runs side by side."""
    together = losses_of_first_step(job, slice(runs), tmp_path / "together")
    alone = losses_of_first_step(job, slice(runs - 1, runs), tmp_path / "alone")
    assert together[-1] == pytest.approx(alone[0], rel=CLOSE[job.trunk.dtype])
    trainer, monitor = trainer_of(job, slice(runs), tmp_path)
    with monitor:
        benchmark.pedantic(trainer.train_step, (monitor,), rounds=8, warmup_rounds=2)
    benchmark.extra_info["rows_per_second"] = round(16 * runs / benchmark.stats.stats.median)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("runs", RUNS)
def test_replayed_step(job: Job, runs: int, tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    """The same as a CUDA graph: the warm-up is long enough to meet the buckets that are common."""
    replayed = losses_of_first_step(job, slice(runs), tmp_path / "replayed", graphs=True)
    eager = losses_of_first_step(job, slice(runs), tmp_path / "eager")
    assert replayed == pytest.approx(eager, rel=CLOSE[job.trunk.dtype])
    trainer, monitor = trainer_of(job, slice(runs), tmp_path, graphs=True)
    with monitor:
        benchmark.pedantic(trainer.train_step, (monitor,), rounds=50, warmup_rounds=100)
    assert trainer.graphs is not None
    benchmark.extra_info["graphs"] = trainer.graphs.captured
    benchmark.extra_info["rows_per_second"] = round(16 * runs / benchmark.stats.stats.median)


@pytest.mark.parametrize("rows", [1, 4, 20, 100])
def test_scoring(rows: int, tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    """Greedy answers to so many rows of each of eight tasks: of all runs in their passes, of each run by itself."""
    job = opened(rows)
    trainer, _ = trainer_of(job, slice(27), tmp_path)
    (cohort,) = trainer.cohorts
    asked = [Asked(job.trunk, cohort.prompts(run), job.data.evaluation(), "natural") for run in range(27)]

    def answered(runs: Sequence[Asked]) -> list[Predicted]:
        how = job.settings
        return [own for _, own in predict(job.data, runs, scoring=how.scoring, batch_size=how.eval_batch_size)]

    def apart() -> list[Predicted]:
        return [own for one in asked for own in answered([one])]

    if job.trunk.device.type == "cpu":
        assert answered(asked) == apart()
    seconds = timed(benchmark, {"together": lambda: answered(asked), "apart": apart}, 5)
    benchmark.extra_info["rows_per_second"] = {way: round(27 * 8 * rows / took) for way, took in seconds.items()}
