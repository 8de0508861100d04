"""Samplers: which point of a space is tried next, one a file; `--sampler new-sampler` takes that of `new_sampler.py`.

To add one, add such a file with `ENTRY`, a `Sampler`. The samplers of Optuna are a line each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compt_fast.utils.registry import Registry

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from compt_fast.search.space import Point, Space

ORDER = ("tpe", "random", "grid")


@dataclass(frozen=True)
class Sampler:
    """`make` gives Optuna's sampler for one trial, from a seed of that trial's own: so what it chooses follows from the
    trials before it, and a search that goes on needs no state of random numbers. `points`, of a space and a seed, are
    all that is ever tried, in order; without them the sampler chooses until nobody asks any more.
    """

    make: Callable[[int], BaseSampler]
    points: Callable[[Space, int], list[Point]] | None = None


SAMPLERS: Registry[Sampler] = Registry(__name__)
