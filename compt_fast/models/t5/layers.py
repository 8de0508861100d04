"""The steps that encoder and decoder layers share, forward and backward, on packed tokens.

Each forward adds its step to the residual stream `x` (n, d) in place and returns what its backward
needs; each backward adds what comes through the step to the stream's gradient in place. Inputs of
frozen matrices are not kept for their own sake.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from compt_fast.models.t5.attention import self_attend_backward
from compt_fast.models.t5.layout import Pairs
from compt_fast.models.t5.weights import FeedForward, SelfAttention, Weights
from compt_fast.ops.rowwise import gated_gelu, gated_gelu_backward, rms_norm, rms_norm_backward_

Attend = Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]
"""From the fused projection (n, 3, H, c) to the result (n, H, c) and what its backward wants kept."""

AttentionKept = tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]
"""Normed input (n, d), its factor (n, 1), projection (n, 3, H, c), the kernel's own."""

FeedKept = tuple[Tensor, Tensor, Tensor]
"""Normed input (n, d), its factor (n, 1), and what tells the activation's slope."""


def attention_(x: Tensor, own: SelfAttention, weights: Weights, attend: Attend) -> AttentionKept:
    """`x += o attend(qkv norm(x))`."""
    normed, r = rms_norm(x, weights.eps)
    qkv = own.qkv(normed).view(-1, 3, weights.heads, weights.head_dim)
    out, kept = attend(qkv)
    own.o.add_(out.flatten(1), x)
    return normed, r, qkv, kept


def attention_backward(
    grad: Tensor, kept: AttentionKept, own: SelfAttention, pairs: Pairs, places: Tensor | None = None
) -> Tensor:
    """The gradient of the step's input from `grad` (n, d), that of its result, which is used up.

    `places` (m,) int64: only there, (m, d).
    """
    normed, r, qkv, own_kept = kept
    out_grad = own.o.back(grad).view_as(qkv[:, 0])
    qkv_grad = self_attend_backward(out_grad, qkv, own_kept, pairs)
    if places is not None:
        qkv_grad, normed, r, grad = (x[places] for x in (qkv_grad, normed, r, grad))
    rms_norm_backward_(own.qkv.back(qkv_grad.flatten(1)), normed, r, grad)
    return grad


def feed_forward_(x: Tensor, own: FeedForward, weights: Weights) -> FeedKept:
    """`x += wo act(wi norm(x))`."""
    normed, r = rms_norm(x, weights.eps)
    inner = own.wi(normed, relu=not own.gated)
    own.wo.add_(gated_gelu(inner) if own.gated else inner, x)
    return normed, r, inner


def feed_forward_backward_(grad: Tensor, kept: FeedKept, own: FeedForward) -> None:
    """Add to `grad` (n, d), the gradient of the step's result, what comes through the step."""
    normed, r, inner = kept
    hidden_grad = own.wo.back(grad, None if own.gated else inner)
    inner_grad = gated_gelu_backward(hidden_grad, inner) if own.gated else hidden_grad
    rms_norm_backward_(own.wi.back(inner_grad), normed, r, grad)
