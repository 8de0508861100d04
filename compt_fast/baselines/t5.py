"""Where baselines reach into a T5 of transformers: its layer norms, and the outputs of its sublayers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

Change = Callable[[Tensor, Tensor], Tensor]
"""Of a sublayer's input and output, both (B, L, d), its output instead."""


def stacks(model: Any) -> list[Any]:
    """The encoder and the decoder."""
    return [model.encoder, model.decoder]


def layer_norms(model: Any) -> Iterator[Any]:
    """All layer norms of the trunk."""
    return (m for s in stacks(model) for name, m in s.named_modules() if name.endswith("layer_norm"))


def change_attention(block: Any, change: Change) -> None:
    """Let `change` stand between the self-attention of a block and the sum with its input."""

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> tuple[Any, ...]:
        return (change(inputs[0], output[0]), *output[1:])

    block.layer[0].SelfAttention.register_forward_hook(hook)


def change_feed_forward(block: Any, change: Change) -> None:
    """Let `change` stand between the feed-forward layer of a block and the sum with its input."""

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return change(inputs[0], output)

    block.layer[-1].DenseReluDense.register_forward_hook(hook)
