"""Attention of packed rows, unscaled as in T5, and its backward.

`attend` runs groups of similar rows as batched dense products, on any device; it recomputes its
probabilities in the backward, so that nothing beyond its inputs is kept. The encoder's own attention,
where the time goes, has faster ways: see `self_attend`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from compt_fast.kernels import unavailable
from compt_fast.models.t5.layout import MASKED, Group, Pairs
from compt_fast.ops.rowwise import compiled


def attend(q: Tensor, k: Tensor, v: Tensor, pairs: Pairs) -> Tensor:
    """`softmax(q k^T + bias) v` row by row: q (M, H, c), k and v (N, H, c) -> (M, H, c).

    Products and softmax are in fp32; the result has q's dtype.
    """
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for group in pairs.groups:
        weights = weights_of(group, group.queries.pad(q).float(), group.keys.pad(k).float())
        group.queries.store(weights @ group.keys.pad(v).float(), out)
    return out


def attend_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, in their shapes and dtypes, from that of `attend`'s result."""
    grads = tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    for group in pairs.groups:
        queries, keys = group.queries.pad(q).float(), group.keys.pad(k).float()
        weights = weights_of(group, queries, keys)
        out_grad = group.queries.pad(grad, blank=True).float()
        score_grad = softmax_backward(weights, out_grad @ group.keys.pad(v).float().transpose(2, 3))
        group.queries.store(score_grad @ keys, grads[0])
        group.keys.store(score_grad.transpose(2, 3) @ queries, grads[1])
        group.keys.store(weights.transpose(2, 3) @ out_grad, grads[2])
    return grads[0], grads[1], grads[2]


def weights_of(group: Group, queries: Tensor, keys: Tensor) -> Tensor:
    """The group's attention weights (G, H, Tq, Tk) of padded queries and keys."""
    scores = queries @ keys.transpose(2, 3)
    if group.bias is not None:
        scores += group.bias
    return torch.softmax(scores, -1)


def softmax_backward(weights: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the scores from that of the weights: `w (g - sum(w g))`."""
    score_grad = weights * grad
    return score_grad.addcmul_(weights, score_grad.sum(-1, keepdim=True), value=-1)


def _triton() -> ModuleType:
    """The Triton kernels, whose import looks for a GPU's driver."""
    from compt_fast.kernels import attention

    return attention


def self_attend(qkv: Tensor, pairs: Pairs) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Attention among the tokens of each row: the fused projection qkv (N, 3, H, c) -> (N, H, c).

    Also what `self_attend_backward` wants to have kept beside qkv. By the extension on a CPU, by a
    Triton kernel on a GPU, and by `attend` where there is neither.
    """
    if compiled(qkv):
        out, lse = torch.ops.compt_fast.packed_attention(qkv, pairs.k_offsets, pairs.bias)
        return out, (lse,)
    if not unavailable(qkv.device):
        out, lse = _triton().attention_fwd(qkv, pairs.offsets, pairs.bias, pairs.longest)
        return out, (out, lse)
    q, k, v = qkv.unbind(1)
    return attend(q, k, v, pairs), ()


def self_attend_backward(grad: Tensor, qkv: Tensor, kept: tuple[Tensor, ...], pairs: Pairs) -> Tensor:
    """The gradient of qkv, (N, 3, H, c), from that of `self_attend`'s result, (N, H, c)."""
    if not kept:
        q, k, v = qkv.unbind(1)
        return torch.stack(attend_backward(grad, q, k, v, pairs), 1)
    if not unavailable(qkv.device):
        return _triton().attention_bwd(grad, qkv, *kept, pairs.offsets, pairs.bias, pairs.longest)
    return torch.ops.compt_fast.packed_attention_backward(grad, qkv, *kept, pairs.k_offsets, pairs.bias)


@dataclass
class PositionBias:
    """T5's relative position bias: `table` (buckets, H) as the checkpoint has it.

    Of the buckets, an encoder's first half is for keys at or before the query and its second half for
    those behind; a decoder sees no key behind the query. Half of the buckets of a direction hold one
    distance each, the others grow logarithmically up to `max_distance`.
    """

    table: Tensor
    bidirectional: bool
    max_distance: int

    def by_distance(self, width: int) -> Tensor:
        """The bias (H, 2 width - 1) fp32 of a key at distance d from its query, at width - 1 + d."""
        distance = torch.arange(1 - width, width)
        bias = self.table.float()[self._buckets(distance).to(self.table.device)].T.contiguous()
        if not self.bidirectional:
            bias[:, width:] = MASKED
        return bias

    def _buckets(self, distance: Tensor) -> Tensor:
        count = len(self.table) // 2 if self.bidirectional else len(self.table)
        away = distance.abs() if self.bidirectional else (-distance).clamp(min=0)
        exact = count // 2
        # In fp32, in this order: a distance at the border of two buckets must fall where it was trained.
        share = torch.log(away.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = (exact + (share * (count - exact)).long()).clamp(max=count - 1)
        bucket = torch.where(away < exact, away, far)
        return bucket + count * (distance > 0) if self.bidirectional else bucket
