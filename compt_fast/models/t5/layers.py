"""The steps that encoder and decoder layers share, forward and backward, on packed tokens.

Each forward adds its step to the residual stream `x` (n, d) in place and returns the tensors saved for its
backward; each backward adds what comes through the step to the stream's gradient in place. Inputs of
frozen matrices are not saved for their own sake.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from compt_fast.models.t5.weights import FeedForwardWeights, SelfAttentionWeights, Weights
from compt_fast.ops.attention import self_attend_backward
from compt_fast.ops.norm_activation import gated_gelu, gated_gelu_backward, rms_norm, rms_norm_backward_
from compt_fast.ops.varlen import VarlenLayout

Attend = Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]
"""From the fused projection (n, 3, H, c) to the result (n, H, c) and the tensors saved for its backward."""

AttentionSaved = tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]
"""Normed input (n, d), its factor (n, 1), projection (n, 3, H, c), what the attention saved."""

FeedForwardSaved = tuple[Tensor, Tensor, Tensor]
"""Normed input (n, d), its factor (n, 1), and what tells the activation's slope."""


def attention_(x: Tensor, layer: SelfAttentionWeights, weights: Weights, attend: Attend) -> AttentionSaved:
    """`x += o attend(qkv norm(x))`."""
    normed, r = rms_norm(x, weights.eps)
    qkv = layer.qkv(normed).view(-1, 3, weights.heads, weights.head_dim)
    out, saved = attend(qkv)
    layer.o.add_(out.flatten(1), x)
    return normed, r, qkv, saved


def attention_backward(
    grad: Tensor,
    saved: AttentionSaved,
    layer: SelfAttentionWeights,
    layout: VarlenLayout,
    places: Tensor | None = None,
) -> Tensor:
    """The gradient of the step's input from `grad` (n, d), that of its result, which is used up.

    `places` (m,) int64: only there, (m, d).
    """
    normed, r, qkv, attention_saved = saved
    out_grad = layer.o.backward(grad).view_as(qkv[:, 0])
    qkv_grad = self_attend_backward(out_grad, qkv, attention_saved, layout)
    if places is not None:
        qkv_grad, normed, r, grad = (x[places] for x in (qkv_grad, normed, r, grad))
    rms_norm_backward_(layer.qkv.backward(qkv_grad.flatten(1)), normed, r, grad)
    return grad


def feed_forward_(x: Tensor, layer: FeedForwardWeights, weights: Weights) -> FeedForwardSaved:
    """`x += wo act(wi norm(x))`."""
    normed, r = rms_norm(x, weights.eps)
    inner = layer.wi(normed, relu=not layer.gated)
    layer.wo.add_(gated_gelu(inner) if layer.gated else inner, x)
    return normed, r, inner


def feed_forward_backward_(grad: Tensor, saved: FeedForwardSaved, layer: FeedForwardWeights) -> None:
    """Add to `grad` (n, d), the gradient of the step's result, what comes through the step."""
    normed, r, inner = saved
    hidden_grad = layer.wo.backward(grad, None if layer.gated else inner)
    inner_grad = gated_gelu_backward(hidden_grad, inner) if layer.gated else hidden_grad
    rms_norm_backward_(layer.wi.backward(inner_grad), normed, r, grad)
