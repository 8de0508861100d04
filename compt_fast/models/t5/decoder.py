"""The decoder on packed tokens, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.models.t5.cross_attention import CrossKept, Reading
from compt_fast.models.t5.layers import (
    AttentionKept,
    FeedKept,
    attention_,
    attention_backward,
    feed_forward_,
    feed_forward_backward_,
)
from compt_fast.models.t5.layout import Pairs
from compt_fast.ops.rowwise import rms_norm, rms_norm_backward_

AttendAt = Callable[..., tuple[Tensor, tuple[Tensor, ...]]]
"""`layers.Attend` that is also told the layer's number, as `depth`: for what it keeps by layer."""

CrossedKept = tuple[Tensor, Tensor, CrossKept]
"""Normed input (M, d), its factor (M, 1), and what the reading wants kept."""


@dataclass
class DecoderTape:
    """What `decode_backward` needs: an entry a layer, then the last norm's output and factor."""

    layers: list[tuple[AttentionKept, CrossedKept, FeedKept]] = field(default_factory=list)
    last: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def decode(ids: Tensor, attend: AttendAt, reading: Reading, tape: DecoderTape | None = None) -> Tensor:
    """The decoder's states (M, d), as the head reads them, of packed input ids (M,) int64.

    `attend` is the attention among the decoder's own tokens, `reading` the one to the encoder's states.
    Fills the `tape`, if there is one.
    """
    weights = reading.weights
    x = F.embedding(ids, weights.embedding)
    for depth, layer in enumerate(weights.decoder):
        attention = attention_(x, layer.attention, weights, partial(attend, depth=depth))
        crossed = _cross_(x, depth, reading)
        feed = feed_forward_(x, layer.feed, weights)
        if tape is not None:
            tape.layers.append((attention, crossed, feed))
    normed, r = rms_norm(x, weights.eps)
    if tape is not None:
        tape.last.append((normed, r))
    return (normed * weights.head_scale).to(x.dtype)


def decode_backward(out_grad: Tensor, own: Pairs, reading: Reading, tape: DecoderTape) -> Tensor:
    """The gradient (N, d) fp32 of the encoder's states from that of `decode`'s result (M, d).

    `own` is the attention among the tokens. Empties the tape as it goes. The first layer's
    self-attention has read frozen embeddings alone: the way back ends before it.
    """
    weights = reading.weights
    normed, r = tape.last.pop()
    grad = torch.zeros_like(normed)
    rms_norm_backward_((out_grad * weights.head_scale).to(grad.dtype), normed, r, grad)
    for depth in reversed(range(len(weights.decoder))):
        layer = weights.decoder[depth]
        attention, (normed, r, kept), feed = tape.layers.pop()
        feed_forward_backward_(grad, feed, layer.feed)
        out_grad = layer.cross.o.back(grad).view(len(grad), weights.heads, -1)
        q_grad = reading.backward(out_grad, kept, depth)
        if depth:
            rms_norm_backward_(layer.cross.q.back(q_grad.flatten(1)), normed, r, grad)
            grad = attention_backward(grad, attention, layer.attention, own)
    return reading.states_grad()


def _cross_(x: Tensor, depth: int, reading: Reading) -> CrossedKept:
    """`x += o attend(q norm(x))`, reading the encoder's states."""
    weights = reading.weights
    own = weights.decoder[depth].cross
    normed, r = rms_norm(x, weights.eps)
    out, kept = reading.forward(own.q(normed).view(len(x), weights.heads, -1), depth)
    own.o.add_(out.flatten(1), x)
    return normed, r, kept
