"""Which trainer gets which runs: the dearest first, to each its share, and what one without runs takes over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compt_fast.training.plan import Run

WORTH = 2.0  # seconds that a run has left at least, if it is to go on elsewhere: it takes a moment to get there


@dataclass(frozen=True)
class Load:
    """What a trainer has: the runs, the steps that each has left, and the seconds that a step takes."""

    runs: Mapping[str, int]
    pace: float

    @property
    def seconds(self) -> float:
        """Until the last of them is through."""
        return self.pace * max(self.runs.values(), default=0)


def share_of(left: int, trainers: int, width: int) -> int:
    """Runs that a trainer has side by side, of so many that are `left`: up to `width`, and no more than the others."""
    return min(width, max(1, math.ceil(left / max(1, trainers))))


def next_runs(waiting: Sequence[Run], mine: Sequence[Run], share: int) -> list[Run]:
    """Those of the `waiting` runs, the dearest first, that enter beside `mine`; one that trains alone only alone."""
    if any(run.alone for run in mine):
        return []
    if waiting and not mine and waiting[0].alone:
        return [waiting[0]]
    together = [run for run in waiting if not run.alone][: max(0, share - len(mine))]
    if together or mine:
        return together
    return list(waiting[:1])


def to_move(loads: Sequence[Load], idle: int) -> dict[int, list[str]]:
    """The runs that `idle` trainers without any take over, by the place of who has them: half of those of whoever is
    the last to end, one after another.
    """
    busiest = sorted(range(len(loads)), key=lambda at: loads[at].seconds, reverse=True)
    moves: dict[int, list[str]] = {}
    for at in busiest:
        if len(moves) >= idle:
            break
        load = loads[at]
        longest = sorted(load.runs, key=lambda name: load.runs[name], reverse=True)
        worth = [name for name in longest[1::2] if load.runs[name] * load.pace >= WORTH]
        if worth:
            moves[at] = worth
    return moves
