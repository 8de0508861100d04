"""HyperFormer++ (arXiv 2106.04489): adapters whose weights a small network makes of the task, the layer and the place.

Of embeddings z_t of the task, l of the layer and p of the place (behind attention or feed-forward layer):
`e = LN(W_2 relu(W_1 [z_t, l, p] + b_1) + b_2)`; an adapter's matrices, biases, and the gain and shift of its layer
norm are each linear in e, and it is `x + LN_e(W_up(e) gelu(W_down(e) x + b_down(e)) + b_up(e))` (section 2). Encoder
and decoder have a network each, and share z. The trunk's layer norms train too. Sizes are those of the published code.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compt_fast.baselines.methods import Sizes, Tuned
from compt_fast.baselines.methods.adapter import INIT_STD
from compt_fast.baselines.t5 import change_attention, change_feed_forward, layer_norms, stacks

EMBEDDED, HIDDEN, PROJECTED = 64, 128, 64
PLACES = (change_feed_forward, change_attention)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with small random weights and biases of 0."""
    made = nn.Linear(inputs, outputs)
    nn.init.normal_(made.weight, std=INIT_STD)
    nn.init.zeros_(made.bias)
    return made


class HyperNetwork(nn.Module):
    """What makes the adapters of a stack, for d-wide layers."""

    def __init__(self, d_model: int, width: int, layers: int) -> None:
        super().__init__()
        self.shape = (d_model, width)
        self.layers, self.places = nn.Embedding(layers, EMBEDDED), nn.Embedding(len(PLACES), EMBEDDED)
        self.project = nn.Sequential(linear(3 * EMBEDDED, HIDDEN), nn.ReLU(), linear(HIDDEN, PROJECTED))
        self.norm = nn.LayerNorm(PROJECTED, eps=1e-6)
        self.down, self.down_bias = linear(PROJECTED, width * d_model), linear(PROJECTED, width)
        self.up, self.up_bias = linear(PROJECTED, d_model * width), linear(PROJECTED, d_model)
        self.gain, self.shift = linear(PROJECTED, d_model), linear(PROJECTED, d_model)

    def forward(self, x: Tensor, tasks: Tensor, layer: int, place: int) -> Tensor:
        """The adapted x (B, L, d) of rows whose tasks have the embeddings `tasks` (B, 64)."""
        d_model, width = self.shape
        where = torch.cat([self.layers.weight[layer], self.places.weight[place]]).expand(len(tasks), -1)
        e = self.norm(self.project(torch.cat([tasks, where], 1)))
        down = x @ self.down(e).view(-1, width, d_model).transpose(1, 2) + self.down_bias(e)[:, None]
        middle = F.gelu(down, approximate="tanh")
        up = middle @ self.up(e).view(-1, d_model, width).transpose(1, 2) + self.up_bias(e)[:, None]
        scaled: Tensor = self.gain(e)[:, None] * F.layer_norm(up, (d_model,)) + self.shift(e)[:, None]
        return x + scaled


class HyperFormer(Tuned):
    """A T5 with two made adapters a block, and layer norms that train."""

    def __init__(self, model: Any, sizes: Sizes) -> None:
        super().__init__(model, sizes)
        d_model = model.config.d_model
        self.tasks = nn.Embedding(sizes.tasks, EMBEDDED)
        self.networks = nn.ModuleList()
        self._rows: Tensor | None = None
        for stack in stacks(model):
            network = HyperNetwork(d_model, sizes.bottleneck, len(stack.block))
            self.networks.append(network)
            for layer, block in enumerate(stack.block):
                for place, change in enumerate(PLACES):
                    change(block, partial(self._behind, network, layer, place))
        for norm in layer_norms(model):
            norm.requires_grad_(True)

    def _behind(self, network: HyperNetwork, layer: int, place: int, inputs: Tensor, output: Tensor) -> Tensor:
        changed: Tensor = network(output, self._rows, layer, place)
        return changed

    def before_encoder(self, tasks: Tensor) -> None:
        self._rows = self.tasks(tasks)

    def before_decoder(self, tasks: Tensor, states: Tensor, mask: Tensor) -> None:
        self._rows = self.tasks(tasks)


ENTRY = HyperFormer
