"""The teachers of a step's rows: the stored prompts of their tasks (MPT, arXiv 2303.02861, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from compt_fast.models.batch import TargetPrompts
from compt_fast.models.distillation import Teachers
from compt_fast.training.cohort import Cohort
from compt_fast.training.plan import Run

TeachersOf = Callable[[Run], Tensor | None]
"""The prompts (T, L, d) that teach a run, one a task; None for one that has no teachers."""


def no_teachers(run: Run) -> None:
    """What teaches a run that has no teachers; `ValueError` for one that is to have some."""
    if run.config.distils:
        raise ValueError(f"{run.id} learns from stored prompts, and the trainer was given none")


def teachers_of(cohorts: Sequence[Cohort], parts: Sequence[tuple[Tensor, Tensor]]) -> Teachers | None:
    """Who teaches which row of a step, and how; None where nobody does.

    `parts` are each cohort's runs and tasks (B,) of its rows, on the CPU, the rows of a cohort behind those of the one
    before.
    """
    prompts: list[Tensor] = []
    rows, slots, settings = [], [], []
    first = slot = 0
    for cohort, (runs, tasks) in zip(cohorts, parts, strict=True):
        for run, member in enumerate(cohort.members):
            if member.teachers is None:
                continue
            own, config = (runs == run).nonzero()[:, 0], member.run.config
            rows.append(first + own)
            slots.append(slot + tasks[own])
            numbers = torch.tensor([config.distil, config.distil_temperature, config.distil_hidden])
            settings.append(numbers.expand(len(own), 3))
            prompts.append(member.teachers)
            slot += len(member.teachers)
        first += len(runs)
    if not prompts:
        return None
    weight, temperature, hidden = torch.cat(settings).unbind(1)
    return Teachers(torch.cat(rows), TargetPrompts.from_stacks(prompts), torch.cat(slots), weight, temperature, hidden)
