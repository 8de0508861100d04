"""What every gate, router, normalisation, prompt encoder and composition declares, each in a file of its own.

The folders of these names say what one of each adds to it. All tensors of a run's parameters have a leading run axis R
when a formula gets them; the sizes that an entry declares are without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # choices are listed where no torch is loaded
    from torch import Tensor

    from compt_fast.prompts.shape import PromptShape


@dataclass(frozen=True)
class Parameter:
    """A trainable tensor: its size without the run axis, where it starts, and the learning rate it trains at.

    initial: bounds of the uniform distribution that its numbers are drawn from, of equal bounds the number that all of
    them are; None: drawn as the flag --init says. group: "source", "private" or "router", for the flags --lr-source,
    --lr-private and --lr-router.
    """

    size: tuple[int, ...]
    initial: tuple[float, float] | None = (0.0, 0.0)
    group: str = "router"


def no_parameters(shape: PromptShape) -> dict[str, Parameter]:
    """The parameters of an entry that learns nothing."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What decides the paths that an entry's prompts take.

    kernel: the word of `compt_fast.kernels.plan.COMPUTED` for what computes it; with None, as every new entry begins,
    the formula does, on every path. captured: a CUDA graph may hold its formula, which neither waits for the device nor
    makes a shape that depends on data.
    """

    kernel: str | None = None
    captured: bool = False


@dataclass(frozen=True)
class Rows:
    """B input rows, for entries that compose a prompt for each (`per_row`).

    runs and tasks (B,) int64 say whose each row is; means (B, d), any float dtype, is the mean of its token embeddings.
    sources (R, N, m, d) and privates (R, T, m, d) are the encoded prompts, None where there are none.
    """

    runs: Tensor
    tasks: Tensor
    means: Tensor
    sources: Tensor | None
    privates: Tensor | None
