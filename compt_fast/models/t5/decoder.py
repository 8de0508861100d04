"""The decoder on packed tokens, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.models.t5.cross_attention import CrossAttention, CrossAttentionSaved
from compt_fast.models.t5.layers import (
    AttentionSaved,
    FeedForwardSaved,
    attention_,
    attention_backward,
    feed_forward_,
    feed_forward_backward_,
)
from compt_fast.ops.norm_activation import rms_norm, rms_norm_backward_
from compt_fast.ops.varlen import VarlenLayout

AttendAt = Callable[..., tuple[Tensor, tuple[Tensor, ...]]]
"""`layers.Attend` that is also told the layer's number, as `depth`: for what it keeps by layer."""

CrossSaved = tuple[Tensor, Tensor, CrossAttentionSaved]
"""Normed input (M, d), its factor (M, 1), and what the cross-attention saved."""


@dataclass
class DecoderSaved:
    """The tensors saved for `decode_backward`: an entry a layer, then the last norm's output and factor."""

    layers: list[tuple[AttentionSaved, CrossSaved, FeedForwardSaved]] = field(default_factory=list)
    last_norm: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def decode(ids: Tensor, attend: AttendAt, cross_attention: CrossAttention, saved: DecoderSaved | None = None) -> Tensor:
    """The decoder's states (M, d), as the head reads them, of packed input ids (M,) int64.

    `attend` is the attention among the decoder's own tokens, `cross_attention` the one to the encoder's states.
    Fills `saved`, if it is given.
    """
    weights = cross_attention.weights
    x = F.embedding(ids, weights.embedding)
    for depth, layer in enumerate(weights.decoder):
        attention = attention_(x, layer.attention, weights, partial(attend, depth=depth))
        cross = _cross_attention_(x, depth, cross_attention)
        feed_forward = feed_forward_(x, layer.feed_forward, weights)
        if saved is not None:
            saved.layers.append((attention, cross, feed_forward))
    normed, r = rms_norm(x, weights.eps)
    if saved is not None:
        saved.last_norm.append((normed, r))
    return (normed * weights.head_scale).to(x.dtype)


def decode_backward(
    out_grad: Tensor, layout: VarlenLayout, cross_attention: CrossAttention, saved: DecoderSaved
) -> Tensor:
    """The gradient (N, d) fp32 of the encoder's states from that of `decode`'s result (M, d).

    `layout` is that of the attention among the decoder's tokens. Empties `saved` as it goes. The first layer's
    self-attention has read frozen embeddings alone: the backward ends before it.
    """
    weights = cross_attention.weights
    normed, r = saved.last_norm.pop()
    grad = torch.zeros_like(normed)
    rms_norm_backward_((out_grad * weights.head_scale).to(grad.dtype), normed, r, grad)
    for depth in reversed(range(len(weights.decoder))):
        layer = weights.decoder[depth]
        attention, (normed, r, cross), feed_forward = saved.layers.pop()
        feed_forward_backward_(grad, feed_forward, layer.feed_forward)
        out_grad = layer.cross.o.backward(grad).view(len(grad), weights.heads, -1)
        q_grad = cross_attention.backward(out_grad, cross, depth)
        if depth:
            rms_norm_backward_(layer.cross.q.backward(q_grad.flatten(1)), normed, r, grad)
            grad = attention_backward(grad, attention, layer.attention, layout)
    return cross_attention.states_grad()


def _cross_attention_(x: Tensor, depth: int, cross_attention: CrossAttention) -> CrossSaved:
    """`x += o attend(q norm(x))`, to the encoder's states."""
    weights = cross_attention.weights
    layer = weights.decoder[depth].cross
    normed, r = rms_norm(x, weights.eps)
    out, saved = cross_attention.forward(layer.q(normed).view(len(x), weights.heads, -1), depth)
    layer.o.add_(out.flatten(1), x)
    return normed, r, saved
