"""An MLP with one hidden layer and the exact GELU (ComPT Eq. 2), whose layers start as `torch.nn.Linear` does."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from compt_fast.prompts.encoders import Encoder
from compt_fast.prompts.entry import Parameter
from compt_fast.prompts.products import linear
from compt_fast.prompts.shape import PromptShape


def parameters(shape: PromptShape) -> dict[str, Parameter]:
    """Layers d -> h -> d."""
    d, h = shape.d_model, shape.hidden
    first, last = 1 / math.sqrt(d), 1 / math.sqrt(h)
    return {
        "hidden.weight": Parameter((h, d), (-first, first)),
        "hidden.bias": Parameter((h,), (-first, first)),
        "out.weight": Parameter((d, h), (-last, last)),
        "out.bias": Parameter((d,), (-last, last)),
    }


def mlp(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """(K, B, m, d)."""
    x = functional.gelu(linear(x, weights["hidden.weight"], weights["hidden.bias"]))
    return linear(x, weights["out.weight"], weights["out.bias"])


ENTRY = Encoder(parameters, mlp, hidden=True, kernel="mlp", captured=True)
