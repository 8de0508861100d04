"""What a search has tried, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from compt_fast.utils.inputs import dataclass_from

GOING, FINISHED, PRUNED, FAILED = STATES = ("going", "finished", "pruned", "failed")


@dataclass
class Trial:
    """A point of the space, by the names of its axes, and the ids of its `runs`, one a seed (and task).

    `value` is the mean of the runs' development averages (percent) once all have finished; of one that was pruned
    `reports` hold what it reached until then, by steps. `seconds` of the job had passed when it ended. `reason` says
    why it was pruned or failed.
    """

    number: int
    point: dict[str, Any]
    runs: list[str]
    state: str = GOING
    value: float | None = None
    reports: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    reason: str = ""

    @property
    def says(self) -> str:
        """What came of it, in a line."""
        point = ", ".join(f"{name} {shown(value)}" for name, value in self.point.items())
        found = f"{self.value:.1f} in development" if self.value is not None else self.reason or self.state
        return f"trial {self.number}: {found} ({point})"

    def to_json(self) -> dict[str, Any]:
        """Its entry in `search.json` and in checkpoints."""
        return asdict(self)

    @classmethod
    def from_json(cls, entry: Any, where: str) -> Self:
        """What `to_json` gave; `InputError` that begins with `where` for anything else."""
        return dataclass_from(cls, entry, where)


def shown(value: Any) -> str:
    """A value of an axis in a line."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def best_of(trials: Iterable[Trial]) -> Trial | None:
    """The finished trial with the highest value, the first of equals."""
    found = [trial for trial in trials if trial.value is not None]
    return max(found, key=lambda trial: (trial.value, -trial.number), default=None)
