"""A prompt as a product of low rank, P = A B: A are its tokens, h wide, B encodes (DPT, Xiao et al. 2023).

Both are drawn as in the published code, from U(-0.5, 0.5) (A where --init-range says no other).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from compt_fast.prompts.encoders import Encoder, inner_width
from compt_fast.prompts.entry import Parameter
from compt_fast.prompts.products import batched
from compt_fast.prompts.shape import PromptShape


def parameters(shape: PromptShape) -> dict[str, Parameter]:
    """B (h, d), so that a prompt with an encoder of its own has h (m + d) numbers."""
    return {"rows": Parameter((shape.hidden, shape.d_model), (-0.5, 0.5))}


def combined(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Sums of rows, weighted by the tokens x (K, B, m, h): (K, B, m, d)."""
    return batched(x.flatten(1, 2), weights["rows"]).unflatten(1, x.shape[1:3])


def as_layer(weights: Mapping[str, Tensor]) -> list[Tensor]:
    """The same as a linear layer h -> d: weight (R, K, d, h) and a bias of zeros (R, K, d)."""
    rows = weights["rows"]
    return [rows.mT.contiguous(), rows.new_zeros(*rows.shape[:2], rows.shape[-1])]


ENTRY = Encoder(parameters, combined, hidden=True, layers=as_layer, width=inner_width, kernel="linear", captured=True)
