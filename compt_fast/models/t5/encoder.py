"""The encoder on packed rows, and its gradient with respect to its inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from compt_fast.models.t5.layers import (
    AttentionSaved,
    FeedForwardSaved,
    attention_,
    attention_backward,
    feed_forward_,
    feed_forward_backward_,
)
from compt_fast.models.t5.weights import Weights
from compt_fast.ops.attention import self_attend
from compt_fast.ops.norm_activation import rms_norm, rms_norm_backward_
from compt_fast.ops.varlen import VarlenLayout


@dataclass
class EncoderSaved:
    """The tensors saved for `encode_backward`: an entry a layer, then the last norm's output and factor."""

    layers: list[tuple[AttentionSaved, FeedForwardSaved]] = field(default_factory=list)
    last_norm: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def encode(inputs: Tensor, weights: Weights, layout: VarlenLayout, saved: EncoderSaved | None = None) -> Tensor:
    """The encoder's states (N, d), normed but not weighted, of packed input embeddings (N, d).

    Fills `saved`, if it is given.
    """
    x = inputs.clone()
    attend = partial(self_attend, layout=layout)
    for layer in weights.encoder:
        attention = attention_(x, layer.attention, weights, attend)
        feed_forward = feed_forward_(x, layer.feed_forward, weights)
        if saved is not None:
            saved.layers.append((attention, feed_forward))
    states, r = rms_norm(x, weights.eps)
    if saved is not None:
        saved.last_norm.append((states, r))
    return states


def encode_backward(
    states_grad: Tensor, weights: Weights, layout: VarlenLayout, saved: EncoderSaved, places: Tensor | None
) -> Tensor:
    """The gradient of the inputs from that of the states (N, d): at `places` (n,) int64 alone, (n, d), or of all of
    them where that is None.

    Empties `saved` as it goes.
    """
    states, r = saved.last_norm.pop()
    grad = torch.zeros_like(states)
    rms_norm_backward_(states_grad.to(grad.dtype), states, r, grad)
    for layer in reversed(weights.encoder):
        attention, feed_forward = saved.layers.pop()
        feed_forward_backward_(grad, feed_forward, layer.feed_forward)
        # What enters the first layer beside `places` are frozen embeddings: nothing there wants a gradient.
        wanted = None if saved.layers else places
        grad = attention_backward(grad, attention, layer.attention, layout, wanted)
    return grad
