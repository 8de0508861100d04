"""Prompt encoders: from raw prompt tokens E[p] to prompts P[p] = enc(E[p]), one kind a file.

To add a kind, add a file `new_kind.py` with `ENTRY = Encoder(...)`: `--encoder new-kind` takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compt_fast.prompts.entry import Entry, Parameter
from compt_fast.utils.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from compt_fast.prompts.shape import PromptShape

ORDER = ("mlp", "linear", "lstm", "residual", "low-rank", "superpos", "none")


def any_shape(shape: PromptShape) -> None:
    """The check of an encoder that goes with every shape."""


def full_width(shape: PromptShape) -> int:
    """Raw tokens are as wide as the trunk: d."""
    return shape.d_model


def inner_width(shape: PromptShape) -> int:
    """Raw tokens are as wide as the encoder inside: h."""
    return shape.hidden


def as_init_says(shape: PromptShape) -> tuple[float, float] | None:
    """Raw tokens start as the flag --init says."""
    return None


@dataclass(frozen=True)
class Encoder(Entry):
    """A kind of prompt encoder.

    parameters(shape) are those of one encoder, laid out as in torch's own layers; who shares it, and so its group, is
    for the shape to say. formula(weights, x) -> (K, B, m, d): weights are those of K encoders, each (K, ...) by the
    names of the parameters; x (K, B, m, w) are the tokens of the B prompts that each of them encodes. None: prompts are
    their tokens. hidden: it has an inner width, the shape's `hidden`. check(shape) raises `InputError` for a shape that
    it cannot have. layers(weights), of an encoder whose kernel takes other tensors than its own: those, of its weights
    (R, K, ...), differentiable. width(shape) is w, the width of raw tokens, and initial(shape) where they start, as of
    `Parameter`.
    """

    parameters: Callable[[PromptShape], dict[str, Parameter]]
    formula: Callable[[Mapping[str, Tensor], Tensor], Tensor] | None
    hidden: bool = False
    check: Callable[[PromptShape], None] = any_shape
    layers: Callable[[Mapping[str, Tensor]], list[Tensor]] | None = None
    width: Callable[[PromptShape], int] = full_width
    initial: Callable[[PromptShape], tuple[float, float] | None] = as_init_says


ENCODERS: Registry[Encoder] = Registry(__name__)
