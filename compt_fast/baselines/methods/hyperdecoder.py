"""Hyperdecoders (arXiv 2203.08304): adapters of the decoder that a network makes of each row's encoded text.

Beside each feed-forward layer, on its normalised input: `x + FF(LN(x)) + W_up relu(W_down LN(x) + b_down) + b_up`. The
encoder's adapters are learned as they are. For the decoder's, with r the mean of the encoder's output over a row's
tokens and l a layer's embedding, `h = relu(W [W_2 relu(W_1 r + b_1) + b_2, l] + b)`, and matrices and biases are each
linear in h (section 3). Sizes, places and initial values are those of the published code for GLUE.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compt_fast.baselines.methods import Sizes, Tuned
from compt_fast.baselines.t5 import change_feed_forward

HIDDEN, LAYER = 128, 10
SMALL = 1e-4  # gain of the encoder's adapters
Adapter = tuple[Tensor, Tensor, Tensor, Tensor]
"""A row's W_down (B, d, w), b_down (B, w), W_up (B, w, d) and b_up (B, d)."""


def _drawn(hidden: int, outputs: int, fan_in: int = 1) -> nn.Linear:
    """A linear layer whose outputs are small weights of a layer with so many inputs, or biases (hyperfan-in)."""
    made, bound = nn.Linear(hidden, outputs), 1e-3 * math.sqrt(3 / (hidden * fan_in))
    nn.init.uniform_(made.weight, -bound, bound)
    nn.init.zeros_(made.bias)
    return made


class Generator(nn.Module):
    """What makes the decoder's adapters."""

    def __init__(self, d_model: int, width: int, layers: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(d_model, d_model), nn.ReLU(), nn.Linear(d_model, d_model))
        self.layers = nn.Embedding(layers, LAYER)
        self.hidden = nn.Linear(d_model + LAYER, HIDDEN)
        self.down, self.down_bias = _drawn(HIDDEN, d_model * width, d_model), _drawn(HIDDEN, width)
        self.up, self.up_bias = _drawn(HIDDEN, width * d_model, width), _drawn(HIDDEN, d_model)

    def forward(self, means: Tensor) -> list[Adapter]:
        """The adapters of every layer, of rows whose encoded texts have the `means` (B, d)."""
        rows, d_model = means.shape
        read, made = self.mlp(means), []
        for layer in self.layers.weight:
            h = torch.relu(self.hidden(torch.cat([read, layer.expand(rows, -1)], 1)))
            down, up = self.down(h).view(rows, d_model, -1), self.up(h).view(rows, -1, d_model)
            made.append((down, self.down_bias(h), up, self.up_bias(h)))
        return made


class EncoderAdapter(nn.Module):
    """`W_up relu(W_down x + b_down) + b_up` for x (..., d)."""

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(d_model, width), nn.Linear(width, d_model)
        for linear in (self.down, self.up):
            nn.init.xavier_uniform_(linear.weight, gain=SMALL)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.up(torch.relu(self.down(x)))
        return added


def _beside(adapter: Callable[[Tensor], Tensor], x: Tensor, output: Tensor) -> Tensor:
    return output + adapter(x)


class HyperDecoder(Tuned):
    """A T5 with one adapter a block: learned in the encoder, made for each row in the decoder."""

    def __init__(self, model: Any, sizes: Sizes) -> None:
        super().__init__(model, sizes)
        d_model, width = model.config.d_model, sizes.bottleneck
        self.adapters = nn.ModuleList(EncoderAdapter(d_model, width) for _ in model.encoder.block)
        for block, adapter in zip(model.encoder.block, self.adapters, strict=True):
            change_feed_forward(block, partial(_beside, adapter))
        self.generator = Generator(d_model, width, len(model.decoder.block))
        self._made: list[Adapter] = []
        for layer, block in enumerate(model.decoder.block):
            change_feed_forward(block, partial(_beside, partial(self._adapted, layer)))

    def _adapted(self, layer: int, x: Tensor) -> Tensor:
        down, down_bias, up, up_bias = self._made[layer]
        return torch.relu(x @ down + down_bias[:, None]) @ up + up_bias[:, None]

    def before_decoder(self, tasks: Tensor, states: Tensor, mask: Tensor) -> None:
        weights = mask[..., None].to(states.dtype)
        self._made = self.generator((states * weights).sum(1) / weights.sum(1))


ENTRY = HyperDecoder
