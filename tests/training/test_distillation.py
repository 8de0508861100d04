"""Which teacher a row of a step gets, and who gets none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compt_fast.config.flags import read_flags
from compt_fast.training.distillation import no_teachers, teachers_of
from compt_fast.training.graphs import eager
from compt_fast.training.plan import Run, plan_runs


def runs_of(**given: str) -> list[Run]:
    return plan_runs(read_flags(given, None), tasks=["rte", "cola"], d_model=4)


def cohort(*runs: Run) -> Any:
    """A cohort whose runs' teachers hold their own number, and those of each task its number besides."""
    members = []
    for number, run in enumerate(runs):
        taught = 10.0 * number + torch.arange(2.0)[:, None, None] + torch.zeros(2, run.config.prompt_length, 4)
        members.append(SimpleNamespace(run=run, teachers=taught if run.config.distils else None))
    return SimpleNamespace(members=members)


def test_each_row_gets_the_teacher_of_its_run_and_task() -> None:
    (plain,), (other,) = runs_of(method="spp"), runs_of(method="spp", distil="0.5", distil_temperature="2")
    (mpt,) = runs_of(method="mpt-source", prompt_length="3")
    parts = [
        (torch.tensor([0, 0, 1, 1, 1]), torch.tensor([1, 0, 0, 1, 1])),
        (torch.tensor([0, 0]), torch.tensor([1, 0])),
    ]
    found = teachers_of([cohort(plain, other), cohort(mpt)], parts)
    assert found is not None
    assert found.rows.tolist() == [2, 3, 4, 5, 6] and found.slots.tolist() == [0, 1, 1, 3, 2]
    assert found.prompts.lengths.tolist() == [5, 5, 3, 3] and found.prompts.flat[::5, 0].tolist()[:2] == [10, 11]
    assert found.weight.tolist() == pytest.approx([0.5] * 3 + [0.9] * 2)
    assert found.temperature.tolist() == [2, 2, 2, 1, 1] and not found.hidden.any()
    assert teachers_of([cohort(plain)], parts[:1]) is None


def test_a_run_that_learns_from_teachers_needs_some_and_no_graph_takes_it() -> None:
    (plain,), (taught,) = runs_of(method="mst"), runs_of(method="mst", distil_hidden="1")
    assert no_teachers(plain) is None  # type: ignore[func-returns-value]
    with pytest.raises(ValueError, match="learns from stored prompts, and the trainer was given none"):
        no_teachers(taught)
    none = (eager(run.shape, run.config.distils) for run in runs_of(method="mst", encoder="linear"))
    assert list(none) == [""] and "from teachers" in eager(plain.shape, taught.config.distils)
