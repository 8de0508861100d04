"""BitFit (arXiv 2106.10199): biases train, and nothing else.

A T5 has none. As in ATTEMPT's published code, each linear layer, the head's included, and each layer norm gets one,
which begins at 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from compt_fast.baselines.methods import Sizes, Tuned
from compt_fast.baselines.t5 import layer_norms


class BitFit(Tuned):
    """`W x + b` for each linear layer, `w * x / rms(x) + b` for each layer norm."""

    def __init__(self, model: Any, sizes: Sizes) -> None:
        super().__init__(model, sizes)
        for linear in [module for module in model.modules() if isinstance(module, nn.Linear)]:
            linear.bias = _zeros(linear.out_features, linear.weight)
        for norm in layer_norms(model):
            norm.bias = _zeros(len(norm.weight), norm.weight)
            norm.register_forward_hook(_shifted)


def _zeros(size: int, like: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.zeros(size, dtype=like.dtype, device=like.device))


def _shifted(norm: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + norm.bias


ENTRY = BitFit
