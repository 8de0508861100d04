"""The fast engine with its techniques switched off: a rung has those of the rungs above it in `RUNGS`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from torch import Tensor

from compt_fast.trunk import attention, cross, linear, packed, rowwise

RUNGS = (
    "packed rows, fused projections, backward by hand",
    "and queries carried into the encoder's space",
    "and compiled attention",
    "and compiled norms",
    "and compiled reading of the encoder's states",
    "and products from matrices that lie in memory once",
)


def _never(x: Tensor) -> bool:
    return False


def _projected(*arguments: Any, times: int = 1) -> cross.Reading:
    return cross.Projected(*arguments)


OFF: tuple[tuple[Any, str, Any], ...] = (
    (packed, "read", _projected),
    (attention, "compiled", _never),
    (rowwise, "compiled", _never),
    (cross, "compiled", _never),
    (linear, "compiled", _never),
)
"""What to put in the place of each technique, from the second rung on."""


@contextmanager
def rung(name: str) -> Iterator[None]:
    """Inside, engines are opened and compute with the techniques of a rung only."""
    with ExitStack() as stack:
        for module, attribute, instead in OFF[RUNGS.index(name) :]:
            stack.enter_context(mock.patch.object(module, attribute, instead))
        yield
