"""The encoder on packed rows, and its gradient with respect to the prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from compt_fast.models.t5.attention import self_attend
from compt_fast.models.t5.layers import (
    AttentionKept,
    FeedKept,
    attention_,
    attention_backward,
    feed_forward_,
    feed_forward_backward_,
)
from compt_fast.models.t5.layout import Pairs
from compt_fast.models.t5.weights import Weights
from compt_fast.ops.rowwise import rms_norm, rms_norm_backward_


@dataclass
class EncoderTape:
    """What `encode_backward` needs: an entry a layer, then the last norm's output and factor."""

    layers: list[tuple[AttentionKept, FeedKept]] = field(default_factory=list)
    last: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def encode(inputs: Tensor, weights: Weights, pairs: Pairs, tape: EncoderTape | None = None) -> Tensor:
    """The encoder's states (N, d), normed but not weighted, of packed input embeddings (N, d).

    Fills the `tape`, if there is one.
    """
    x = inputs.clone()
    attend = partial(self_attend, pairs=pairs)
    for layer in weights.encoder:
        attention = attention_(x, layer.attention, weights, attend)
        feed = feed_forward_(x, layer.feed, weights)
        if tape is not None:
            tape.layers.append((attention, feed))
    states, r = rms_norm(x, weights.eps)
    if tape is not None:
        tape.last.append((states, r))
    return states


def encode_backward(states_grad: Tensor, weights: Weights, pairs: Pairs, tape: EncoderTape, places: Tensor) -> Tensor:
    """The gradient (n, d) of the inputs at `places` (n,) int64, from that of the states (N, d).

    The other places hold embeddings of the frozen table. Empties the tape as it goes.
    """
    states, r = tape.last.pop()
    grad = torch.zeros_like(states)
    rms_norm_backward_(states_grad.to(grad.dtype), states, r, grad)
    for layer in reversed(weights.encoder):
        attention, feed = tape.layers.pop()
        feed_forward_backward_(grad, feed, layer.feed)
        only = None if tape.layers else places
        grad = attention_backward(grad, attention, layer.attention, pairs, only)
    return grad
