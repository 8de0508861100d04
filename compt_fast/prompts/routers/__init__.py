"""Routers: where the weights w[t, i] of source prompts come from (ComPT, Section 2.3), one kind a file.

To add a kind, add a file `new_kind.py` with `ENTRY = Router(...)`: `--router new-kind` takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compt_fast.prompts.entry import Entry, Parameter
from compt_fast.utils.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from compt_fast.prompts.shape import PromptShape

ORDER = ("direct", "constant", "relaxed-bernoulli", "attention")


@dataclass(frozen=True)
class Router(Entry):
    """A kind of router. n: the shape's `n_weights`, the weights of a target prompt, or fewer where some are masked."""

    parameters: Callable[[PromptShape], dict[str, Parameter]]
    logits: Callable[..., Tensor]
    """logits(params, shape) -> (R, T, n) of each run and task, in the parameters' dtype; of a router that is `per_row`,
    logits(params, shape, rows) -> (B, n), with rows a `Rows`.
    """
    weights: Callable[[Tensor], Tensor] | None = None
    """Of logits: weights of the same shape, non-negative. None: the shape's normalisation makes them."""
    normalisation: str = ""
    """The only normalisation that goes with it, and what `auto` stands for; empty: the shape chooses."""
    sample: Callable[[Tensor, Any, Tensor], Tensor] | None = None
    """sample(logits, temperature, noise) -> weights, drawn in each training step, with temperature (R,) and noise, of
    the logits' shape, uniform on [0, 1). None: the weights are those of evaluation.
    """
    temperature: Callable[[Tensor, Tensor], Tensor] | None = None
    """Of a router that samples, temperature(step, steps) -> (R,) from each run's step and number of steps (R,); without
    it, and of one that is `per_row`, the temperature is None.
    """
    per_row: bool = False
    """The logits are a function of the input."""


ROUTERS: Registry[Router] = Registry(__name__)
