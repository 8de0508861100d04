"""Searches that nobody trained: trials with made-up scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from compt_fast.search.record import Record
from compt_fast.search.space import Point, Space, space_of
from compt_fast.search.study import Study
from compt_fast.search.trials import FINISHED, PRUNED, Trial, best_of

TABLE: Mapping[str, Any] = {
    "method": ["spp", "pt"],
    "lr_private": {"low": 0.01, "high": 1.0, "log": True},
    "warmup": [0.1, 0.2],
    "when": {"method": {"spp": {"sources": [2, 4, 8]}}},
}


def worth(point: Point) -> float:
    """The private rate matters most, the sources some, the warm-up nothing."""
    return 80 - 40 * abs(point["lr_private"] - 0.3) + point.get("sources[method=spp]", 2)


def made_search(count: int = 40, value: Callable[[Point], float] = worth) -> Record:
    """A search of so many trials, drawn at random; every fifth was pruned, and the best one has fresh seeds."""
    space: Space = space_of(TABLE, "t", {"seeds": [0], "shots": 4})
    study = Study(space, "random", 0)
    trials = []
    for number in range(count):
        point = study.ask()
        assert point is not None
        done = number % 5 != 4
        ended = {"state": FINISHED, "value": value(point)} if done else {"state": PRUNED, "reports": {"2": 50.0}}
        trials.append(Trial(number, point, [f"run-t{number}"], seconds=2.0 * number, **ended))  # type: ignore[arg-type]
    best = best_of(trials)
    assert best is not None
    return Record(space, "random", 0, trials, best.number, [f"run-s{seed}-t{best.number}" for seed in (1, 2, 3)])
