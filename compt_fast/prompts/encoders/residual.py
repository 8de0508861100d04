"""A bottleneck and a way around it, P = E + LayerNorm(W2 ReLU(W1 E + b1) + b2) (Residual Prompt Tuning, 2305.03937).

The layers start as `torch.nn.Linear` and `torch.nn.LayerNorm` do.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from compt_fast.prompts.encoders import Encoder
from compt_fast.prompts.encoders.mlp import parameters as mlp_parameters
from compt_fast.prompts.entry import Parameter
from compt_fast.prompts.products import linear
from compt_fast.prompts.shape import PromptShape


def parameters(shape: PromptShape) -> dict[str, Parameter]:
    """Layers d -> h -> d, and the scale and shift of the norm."""
    norm = {"norm.weight": Parameter((shape.d_model,), (1.0, 1.0)), "norm.bias": Parameter((shape.d_model,))}
    return mlp_parameters(shape) | norm


def around(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """(K, B, m, d)."""
    inner = functional.relu(linear(x, weights["hidden.weight"], weights["hidden.bias"]))
    out = functional.layer_norm(linear(inner, weights["out.weight"], weights["out.bias"]), x.shape[-1:])
    return x + out * weights["norm.weight"][:, None, None] + weights["norm.bias"][:, None, None]


ENTRY = Encoder(parameters, around, hidden=True, captured=True)
