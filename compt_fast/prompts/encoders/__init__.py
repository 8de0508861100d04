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

ORDER = ("mlp", "linear", "lstm", "none")


def any_shape(shape: PromptShape) -> None:
    """The check of an encoder that goes with every shape."""


@dataclass(frozen=True)
class Encoder(Entry):
    """A kind of prompt encoder.

    parameters(shape) are those of one encoder, laid out as in torch's own layers; who shares it, and so its group, is
    for the shape to say. formula(weights, x) -> (K, B, m, d): weights are those of K encoders, each (K, ...) by the
    names of the parameters; x (K, B, m, d) are the tokens of the B prompts that each of them encodes. None: prompts are
    their tokens. hidden: it has an inner width, the shape's `hidden`. check(shape) raises `InputError` for a shape that
    it cannot have.
    """

    parameters: Callable[[PromptShape], dict[str, Parameter]]
    formula: Callable[[Mapping[str, Tensor], Tensor], Tensor] | None
    hidden: bool = False
    check: Callable[[PromptShape], None] = any_shape


ENCODERS: Registry[Encoder] = Registry(__name__)
