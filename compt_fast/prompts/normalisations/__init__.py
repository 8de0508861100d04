"""Normalisations: how the weights of source prompts follow from their logits (ComPT, Section 2.3), one kind a file.

To add a kind, add a file `new_kind.py` with `ENTRY = Normalisation(...)`: `--normalisation new-kind` takes it. Which
kind `auto` stands for is said by `PromptShape.normaliser`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compt_fast.prompts.entry import Entry
from compt_fast.utils.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

ORDER = ("softmax", "sparsemax", "sigmoid", "softmax-temperature")


@dataclass(frozen=True)
class Normalisation(Entry):
    """A kind of normalisation; it learns nothing.

    formula(logits) maps (..., n) to weights (..., n), non-negative and in the logits' dtype, along the last axis; where
    prompts are masked n is smaller than the shape's number of weights. temperature: the logits are divided by the
    shape's `tau` before.
    """

    formula: Callable[[Tensor], Tensor]
    temperature: bool = False


NORMALISATIONS: Registry[Normalisation] = Registry(__name__)
