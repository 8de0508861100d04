"""The steps that encoder and decoder layers share, forward and backward, on packed tokens.

Each forward adds its step to the residual stream `x` (n, d) in place and returns what its backward
needs; each backward adds what comes through the step to the stream's gradient in place. Inputs of
frozen matrices are not kept for their own sake.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.trunk.attention import self_attend_backward
from compt_fast.trunk.norm import rms_norm, rms_norm_backward_
from compt_fast.trunk.rows import Pairs
from compt_fast.trunk.weights import FeedForward, SelfAttention, Weights

Attend = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""From the fused projection (n, 3, H, c) to the result (n, H, c) and what its backward wants kept."""

AttentionKept = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]
"""Normed input (n, d), its factor (n, 1), projection (n, 3, H, c), result (n, H, c), the kernel's own."""

FeedKept = tuple[Tensor, Tensor, Tensor]
"""Normed input (n, d), its factor (n, 1), and what tells the activation's slope."""


def attention_(x: Tensor, own: SelfAttention, weights: Weights, attend: Attend) -> AttentionKept:
    """`x += o attend(qkv norm(x))`."""
    normed, r = rms_norm(x, weights.eps)
    qkv = F.linear(normed, own.qkv).view(-1, 3, weights.heads, weights.head_dim)
    out, kept = attend(qkv)
    x += F.linear(out.flatten(1), own.o)
    return normed, r, qkv, out, kept


def attention_backward(
    grad: Tensor, kept: AttentionKept, own: SelfAttention, pairs: Pairs, places: Tensor | None = None
) -> Tensor:
    """The gradient of the step's input from `grad` (n, d), that of its result, which is used up.

    `places` (m,) int64: only there, (m, d).
    """
    normed, r, qkv, out, own_kept = kept
    out_grad = (grad @ own.o).view_as(out)
    qkv_grad = self_attend_backward(out_grad, qkv, out, own_kept, pairs)
    if places is not None:
        qkv_grad, normed, r, grad = (x[places] for x in (qkv_grad, normed, r, grad))
    rms_norm_backward_(qkv_grad.flatten(1) @ own.qkv, normed, r, grad)
    return grad


def feed_forward_(x: Tensor, own: FeedForward, weights: Weights) -> FeedKept:
    """`x += wo act(wi norm(x))`."""
    normed, r = rms_norm(x, weights.eps)
    inner = F.linear(normed, own.wi)
    hidden = _gate(inner) if own.gated else inner.relu_()
    x += F.linear(hidden, own.wo)
    return normed, r, inner


def feed_forward_backward_(grad: Tensor, kept: FeedKept, own: FeedForward) -> None:
    """Add to `grad` (n, d), the gradient of the step's result, what comes through the step."""
    normed, r, inner = kept
    hidden_grad = grad @ own.wo
    if own.gated:
        inner_grad = _gate_backward(hidden_grad, inner)
    else:
        inner_grad = torch.ops.aten.threshold_backward.default(hidden_grad, inner, 0)
    rms_norm_backward_(inner_grad @ own.wi, normed, r, grad)


def _gate(inner: Tensor) -> Tensor:
    """`gelu(u) v` of inner (n, 2f), u before v, with T5 v1.1's tanh form of the gelu: (n, f)."""
    u, v = inner.chunk(2, 1)
    return F.gelu(u, approximate="tanh").mul_(v)


def _gate_backward(grad: Tensor, inner: Tensor) -> Tensor:
    """The gradient of inner (n, 2f) from that of `_gate`'s result."""
    u, v = inner.chunk(2, 1)
    inner_grad = torch.empty_like(inner)
    u_grad, v_grad = inner_grad.chunk(2, 1)
    u_grad.copy_(torch.ops.aten.gelu_backward.default(grad * v, u, approximate="tanh"))
    torch.mul(grad, F.gelu(u, approximate="tanh"), out=v_grad)
    return inner_grad
