"""Attention of packed rows, unscaled as in T5, and its backward.

`attend` is the formula, in groups of similar rows as batched dense products, on any device; it recomputes its
probabilities in the backward, so that nothing beyond its inputs is saved. The attention among a row's own
tokens, where the encoder's time goes, is also compiled: see `self_attend`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compt_fast.ops.paths import COMPILED, TRITON, kernels, path
from compt_fast.ops.varlen import PaddedGroup, VarlenLayout


def attend(q: Tensor, k: Tensor, v: Tensor, layout: VarlenLayout) -> Tensor:
    """`softmax(q k^T + bias) v` row by row: q (M, H, c), k and v (N, H, c) -> (M, H, c).

    Products and softmax are in fp32; the result has q's dtype.
    """
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for group in layout.groups:
        probabilities = probabilities_of(group, group.queries.pad(q).float(), group.keys.pad(k).float())
        group.queries.store(probabilities @ group.keys.pad(v).float(), out)
    return out


def attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, layout: VarlenLayout
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, in their shapes and dtypes, from that of `attend`'s result."""
    grads = tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    for group in layout.groups:
        queries, keys = group.queries.pad(q).float(), group.keys.pad(k).float()
        probabilities = probabilities_of(group, queries, keys)
        out_grad = group.queries.pad(grad, blank=True).float()
        score_grad = softmax_backward(probabilities, out_grad @ group.keys.pad(v).float().transpose(2, 3))
        group.queries.store(score_grad @ keys, grads[0])
        group.keys.store(score_grad.transpose(2, 3) @ queries, grads[1])
        group.keys.store(probabilities.transpose(2, 3) @ out_grad, grads[2])
    return grads[0], grads[1], grads[2]


def probabilities_of(group: PaddedGroup, queries: Tensor, keys: Tensor) -> Tensor:
    """The group's attention probabilities (G, H, Tq, Tk) of padded queries and keys."""
    scores = queries @ keys.transpose(2, 3)
    if group.bias is not None:
        scores += group.bias
    return torch.softmax(scores, -1)


def softmax_backward(probabilities: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the scores from that of the probabilities: `p (g - sum(p g))`."""
    score_grad = probabilities * grad
    return score_grad.addcmul_(probabilities, score_grad.sum(-1, keepdim=True), value=-1)


def self_attend(qkv: Tensor, layout: VarlenLayout) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Attention among the tokens of each row: the fused projection qkv (N, 3, H, c) -> (N, H, c).

    Also what `self_attend_backward` needs saved beside qkv.
    """
    how = path("attention", qkv)
    if how == COMPILED:
        out, lse = torch.ops.compt_fast.packed_attention(qkv, layout.cu_seqlens_k, layout.bias)
        return out, (lse,)
    if how == TRITON:
        out, lse = kernels("attention").attention_fwd(qkv, layout.cu_seqlens, layout.bias, layout.max_seqlen)
        return out, (out, lse)
    q, k, v = qkv.unbind(1)
    return attend(q, k, v, layout), ()


def self_attend_backward(grad: Tensor, qkv: Tensor, saved: tuple[Tensor, ...], layout: VarlenLayout) -> Tensor:
    """The gradient of qkv, (N, 3, H, c), from that of `self_attend`'s result, (N, H, c)."""
    how = path("attention", qkv)
    if how == COMPILED:
        return torch.ops.compt_fast.packed_attention_backward(grad, qkv, *saved, layout.cu_seqlens_k, layout.bias)
    if how == TRITON:
        return kernels("attention").attention_bwd(grad, qkv, *saved, layout.cu_seqlens, layout.bias, layout.max_seqlen)
    q, k, v = qkv.unbind(1)
    return torch.stack(attend_backward(grad, q, k, v, layout), 1)
