"""The fast engine with its techniques switched off: a rung has those of the rungs above it in `RUNGS`.

On a CPU and on a GPU they differ. Replayed steps are whole training steps: `bench_trunk` and `bench_fleet`
time them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

from compt_fast.models.t5 import attention, linear
from compt_fast.models.t5 import cross_attention as cross
from compt_fast.models.t5 import trunk as packed
from compt_fast.ops import rowwise


def _never(x: torch.Tensor) -> bool:
    return False


def _projected(*arguments: Any, times: int = 1) -> cross.Reading:
    return cross.Projected(*arguments)


def _unavailable(device: torch.device) -> str:
    return "switched off"


CARRIED = {"and queries carried into the encoder's space": (packed, "read", _projected)}
ON_CPU = {
    "and compiled attention": (attention, "compiled", _never),
    "and compiled norms": (rowwise, "compiled", _never),
    "and compiled reading of the encoder's states": (cross, "compiled", _never),
    "and products from matrices that lie in memory once": (linear, "compiled", _never),
}
ON_GPU = {"and attention in Triton": (attention, "unavailable", _unavailable)}

TECHNIQUES: dict[str, tuple[Any, str, Any]] = CARRIED | (ON_GPU if torch.cuda.is_available() else ON_CPU)
"""Each technique, and what to put in its place."""
RUNGS = ("packed rows, fused projections, backward by hand", *TECHNIQUES)


@contextmanager
def rung(name: str) -> Iterator[None]:
    """Inside, engines are opened and compute with the techniques of a rung only."""
    with ExitStack() as stack:
        for module, attribute, instead in list(TECHNIQUES.values())[RUNGS.index(name) :]:
            stack.enter_context(mock.patch.object(module, attribute, instead))
        yield
