"""Adapters (arXiv 1902.00751): a small network behind each self-attention and each feed-forward layer.

As in ATTEMPT's published code: `x + W_up gelu(W_down x + b_down) + b_up`, in encoder and decoder, of width d / 32, and
the trunk's layer norms train too.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from compt_fast.baselines.methods import Sizes, Tuned
from compt_fast.baselines.t5 import change_attention, change_feed_forward, layer_norms, stacks

INIT_STD = 0.01


class Adapter(nn.Module):
    """`x + W_up gelu(W_down x + b_down) + b_up` for x (..., d)."""

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(d_model, width), nn.Linear(width, d_model)
        for linear in (self.down, self.up):
            nn.init.normal_(linear.weight, std=INIT_STD)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = x + self.up(F.gelu(self.down(x), approximate="tanh"))
        return changed

    def behind(self, inputs: Tensor, output: Tensor) -> Tensor:
        """What becomes of a sublayer's output."""
        changed: Tensor = self(output)
        return changed


class WithAdapters(Tuned):
    """A T5 with two adapters a block, and layer norms that train."""

    def __init__(self, model: Any, sizes: Sizes) -> None:
        super().__init__(model, sizes)
        d_model = model.config.d_model
        self.adapters = nn.ModuleList()
        for block in [block for stack in stacks(model) for block in stack.block]:
            for change in (change_attention, change_feed_forward):
                adapter = Adapter(d_model, sizes.bottleneck)
                change(block, adapter.behind)
                self.adapters.append(adapter)
        for norm in layer_norms(model):
            norm.requires_grad_(True)


ENTRY = WithAdapters
