"""What the process that conducts a job and the trainers of a cluster tell each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from compt_fast.config.job import JobSettings
from compt_fast.tasks.examples import Seen
from compt_fast.tasks.loaders import TaskData
from compt_fast.training.cohort import Held
from compt_fast.training.plan import Run
from compt_fast.training.results import RunResult


@dataclass(frozen=True)
class Work:
    """What the runs of a job have in common; their rows lie on no machine but the first, and the trunk on all."""

    settings: JobSettings
    trunk_hash: str
    tasks: list[TaskData]


@dataclass(frozen=True)
class Assignment:
    """A run that a trainer is to train: what it starts from and learns from, and, where it has begun, goes on from.

    After the step `until` it leaves, scored on its development sample, and others decide.
    """

    run: Run
    start: Mapping[str, Tensor]
    teachers: Tensor | None
    seen: Seen
    held: Held | None
    until: int | None = None


@dataclass(frozen=True)
class Order:
    """What a trainer does next: runs that `enter`, runs that `leave`, runs that it is to `drop` without a word of them,
    and for how many seconds it trains.
    """

    enter: Sequence[Assignment] = ()
    leave: Sequence[str] = ()
    drop: Sequence[str] = ()
    seconds: float = 1.0


Selected = tuple[str, int, dict[str, Any], float]
"""A run, a step of it, and what its tasks and their average scored on development then."""


@dataclass(frozen=True)
class Ended:
    """What came of a run, and its files by folder ("prompts") and name, of which a baseline's may have none."""

    result: RunResult
    files: Mapping[str, Mapping[str, bytes]]


@dataclass(frozen=True)
class Report:
    """What a trainer has done since its last report.

    `steps` are those of the runs that it has. Where a checkpoint was due, or a run was to leave, `held` is all that the
    run goes on from, and `records` are its steps up to there, a record a step; those of a run that ended are among them
    too. Later ones it keeps: so what is written is always what a checkpoint knows. `developed` are the scores of runs
    that were to leave after a step, `selected` those that runs had on their way. It has `taken` so many steps with so
    many `tokens`.
    """

    steps: Mapping[str, int]
    held: Mapping[str, Held] = field(default_factory=dict)
    ended: Mapping[str, Ended] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    speed: float = 0.0
    developed: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    taken: int = 0
    tokens: int = 0
    selected: list[Selected] = field(default_factory=list)
