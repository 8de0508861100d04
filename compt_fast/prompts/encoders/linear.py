"""A single linear map (CrossPT, Section 2.1), which starts as `torch.nn.Linear` does."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from compt_fast.prompts.encoders import Encoder
from compt_fast.prompts.entry import Parameter
from compt_fast.prompts.products import linear
from compt_fast.prompts.shape import PromptShape


def parameters(shape: PromptShape) -> dict[str, Parameter]:
    """A layer d -> d."""
    d = shape.d_model
    bound = 1 / math.sqrt(d)
    return {"out.weight": Parameter((d, d), (-bound, bound)), "out.bias": Parameter((d,), (-bound, bound))}


def layer(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """(K, B, m, d)."""
    return linear(x, weights["out.weight"], weights["out.bias"])


ENTRY = Encoder(parameters, layer, kernel="linear", captured=True)
