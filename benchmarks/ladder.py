"""The fast engine with its techniques switched off: a rung has those of the rungs above it in `RUNGS`.

On a CPU and on a GPU they differ. Replayed steps are whole training steps: `bench_trunk` and `bench_fleet`
time them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import torch

from compt_fast.models.t5 import cross_attention
from compt_fast.ops.paths import FAMILIES

Off = Callable[[], AbstractContextManager[Any]]


def _projected() -> AbstractContextManager[Any]:
    return mock.patch.object(cross_attention, "absorbing_pays", lambda *given: False)


def _formula(family: str) -> AbstractContextManager[Any]:
    """A family without what computes it faster than its formula."""
    return mock.patch.dict(FAMILIES, {family: replace(FAMILIES[family], compiled=(), triton="")})


ABSORBED: dict[str, Off] = {"and keys and values absorbed into the queries": _projected}
ON_CPU: dict[str, Off] = {
    "and compiled attention": partial(_formula, "attention"),
    "and compiled norms": partial(_formula, "norm_activation"),
    "and compiled cross-attention": partial(_formula, "cross_attention"),
    "and products from matrices that lie in memory once": partial(_formula, "linear"),
}
ON_GPU: dict[str, Off] = {"and attention in Triton": partial(_formula, "attention")}

TECHNIQUES = ABSORBED | (ON_GPU if torch.cuda.is_available() else ON_CPU)
"""Each technique, and what switches it off."""
RUNGS = ("packed rows, fused projections, backward by hand", *TECHNIQUES)


@contextmanager
def rung(name: str) -> Iterator[None]:
    """Inside, engines are opened and compute with the techniques of a rung only."""
    with ExitStack() as stack:
        for off in list(TECHNIQUES.values())[RUNGS.index(name) :]:
            stack.enter_context(off())
        yield
