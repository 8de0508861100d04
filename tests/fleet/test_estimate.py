"""What a job will take is measured without a trace of the measuring."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from compt_fast.errors import InputError
from compt_fast.fleet import estimate as module
from compt_fast.fleet.estimate import Estimate, estimate
from compt_fast.fleet.job import Job
from compt_fast.fleet.report import print_plan
from compt_fast.fleet.trainer import Trainer
from compt_fast.trunk.packed import PackedTrunk
from tests.helpers import jobs


@pytest.fixture(scope="module")
def job(tiny_t5: Path, toys: list[Path]) -> Job:
    return jobs.opened(jobs.settings(tiny_t5, toys, method="spp,silp,pt", runs_at_once=2, steps=150))


def trainer_of(job: Job, folder: Path) -> Trainer:
    return Trainer(job.runs, job.trunk, job.trunk_hash, job.data, job.flags, folder, jobs.drawn)


def test_a_long_job_is_measured_and_left_as_it_was(job: Job, tmp_path: Path) -> None:
    trainer = trainer_of(job, tmp_path)
    found = estimate(trainer)
    assert found is not None
    # Two runs side by side of three: one and a half times the steps of the probe.
    assert found.whole == pytest.approx(found.step * 225 + found.scoring * 3)
    assert found.step > 0 and found.scoring > 0 and found.memory > 2**20
    assert trainer.cohorts == [] and trainer.step == 0 and trainer.waiting == job.runs
    assert list(tmp_path.iterdir()) == []


def test_the_runs_that_need_most_are_measured(
    tiny_t5: Path, toys: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = jobs.settings(tiny_t5, toys, method="pt,spp", prompt_length="2,5,3", seeds="0,1", runs_at_once=3, steps=150)
    mixed = jobs.opened(flags)
    probes: list[Trainer] = []
    scored: list[int] = []
    taken = module._step_seconds
    monkeypatch.setattr(module, "_step_seconds", lambda probe: probes.append(probe) or taken(probe))
    evaluate = module.evaluate
    monkeypatch.setattr(
        module, "evaluate", lambda *rest, **more: scored.append(rest[2].shape.target_length) or evaluate(*rest, **more)
    )
    estimate(trainer_of(mixed, tmp_path))
    (probe,) = probes
    # The longest prompts first; among them spp, which has more parameters; else the plan's order.
    assert [run.id for run in probe.runs] == [
        *("spp-n3-k4-s0-prompt-length5", "spp-n3-k4-s1-prompt-length5", "pt-k4-s0-prompt-length5")
    ]
    assert set(scored) == {5}


def test_a_short_job_is_not_measured(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*rest: Any) -> Any:
        raise AssertionError("a step was taken")

    monkeypatch.setattr(PackedTrunk, "row_losses", never)
    trainer = trainer_of(job, tmp_path)
    trainer.runs = trainer.runs[:1]
    trainer.flags = trainer.flags | {"runs_at_once": 1}
    assert trainer.total_steps == 150
    with pytest.raises(AssertionError, match="a step was taken"):
        estimate(trainer)
    monkeypatch.setattr(Trainer, "steps_of", lambda self, run: 99)
    assert estimate(trainer) is None


def test_a_lack_of_memory_shows_before_the_job_begins(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*rest: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PackedTrunk, "row_losses", failing)
    with pytest.raises(InputError, match="out of memory with 2 runs side by side: lower --runs-at-once"):
        estimate(trainer_of(job, tmp_path))


def test_the_plan_shows_it(job: Job, tmp_path: Path) -> None:
    trainer = trainer_of(job, tmp_path)
    console = Console(file=io.StringIO(), width=200, markup=False)
    with console.capture() as capture:
        print_plan(console, trainer, Estimate(step=0.25, scoring=2.0, whole=125.0, memory=3 * 2**30))
    said = capture.get()
    assert "3 runs (spp, silp, pt), 2 side by side\n" in said
    assert "450 steps in all" in said and "memory in all 3.0 GiB; about 2 min 5 s" in said
    assert "0.25 s a step of runs side by side and 2.0 s to score a run" in said
    sizes = sorted(run.parameters for run in job.runs)[1:]
    assert f"parameters and moments of the runs side by side {12 * sum(sizes) / 2**20:,.0f} MiB" in said
