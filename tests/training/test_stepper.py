"""One step after another: the next is packed while this one runs, and thrown away where other runs train then."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compt_fast.runs.job import Job
from compt_fast.training import stepper
from compt_fast.training.cohort import Cohort
from compt_fast.training.plan import Run
from compt_fast.training.step import Inputs, Members, Packed, members_of, pack, update
from tests.helpers import jobs


@pytest.fixture(scope="module")
def job(tiny_t5: Path, toys: list[Path]) -> Job:
    return jobs.opened(jobs.settings(tiny_t5, toys))


def plan(job: Job, tiny_t5: Path, toys: list[Path], **changes: Any) -> list[Run]:
    return jobs.planned(job.trunk, [path.stem for path in toys], jobs.settings(tiny_t5, toys, **changes))


def test_what_was_packed_for_runs_that_left_is_thrown_away(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run stops in its first step, another enters for it, one ends after the second step, two with the fifth."""
    runs = [plan(job, tiny_t5, toys, steps=steps, seeds=seed)[0] for seed, steps in enumerate((2, 5, 5, 4))]
    ends, stays, ill, waits = (run.id for run in runs)
    jobs.poison(monkeypatch, ill, "source_tokens", math.nan)
    early: list[Members] = []
    late: list[Members] = []
    taken: list[Members] = []
    of = Inputs.of

    def packing(cohorts: list[Cohort], ahead: int = 0) -> Packed:
        (early if ahead else late).append(members_of(cohorts, ahead))
        return pack(cohorts, ahead)

    def taking(trunk: Any, cohorts: list[Cohort], packed: Packed) -> Inputs:
        assert packed.members == members_of(cohorts)
        taken.append(packed.members)
        return of(trunk, cohorts, packed)

    monkeypatch.setattr(stepper, "pack", packing)
    monkeypatch.setattr(Inputs, "of", taking)
    trainer = jobs.train(job, runs, tmp_path / "all", runs_at_once=3)
    assert taken == [
        (((ends, 0), (stays, 0), (ill, 0)),),
        (((ends, 1), (stays, 1), (waits, 0)),),
        *((((stays, step), (waits, step - 1)),) for step in (2, 3, 4)),
    ]
    assert [members for members in early if members not in taken] == [
        (((ends, 1), (stays, 1), (ill, 1)),),
        (((ends, 2), (stays, 2), (waits, 1)),),
        (((stays, 5), (waits, 4)),),
    ]
    assert late == taken[:3], "what was packed ahead is taken where it can be"
    assert trainer.step == 5
    jobs.train(job, [runs[1]], tmp_path / "alone")
    together, alone = (jobs.prompts(tmp_path / name)[stays] for name in ("all", "alone"))
    assert together.keys() == alone.keys() and all(torch.equal(together[name], alone[name]) for name in alone)


def test_the_next_step_is_packed_before_the_losses_of_this_one_are_read(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the host works while the device does."""
    events: list[str] = []

    class Found:
        def __init__(self, found: Tensor) -> None:
            self.found = found

        def tolist(self) -> list[list[float]]:
            events.append("read")
            numbers: list[list[float]] = self.found.tolist()
            return numbers

    def packing(cohorts: list[Cohort], ahead: int = 0) -> Packed:
        events.append(f"pack {ahead}")
        return pack(cohorts, ahead)

    monkeypatch.setattr(stepper, "pack", packing)
    monkeypatch.setattr(stepper, "update", lambda *given: Found(update(*given)))
    jobs.train(job, plan(job, tiny_t5, toys, steps=2), tmp_path / "run")
    assert events == ["pack 0", "pack 1", "read", "pack 1", "read"]
