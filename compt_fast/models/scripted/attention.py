"""Attention of packed rows for TorchScript: the encoder's, the decoder's to itself, and the decoder's to the encoder."""

from __future__ import annotations

from typing import List, NamedTuple  # noqa: UP035  # TorchScript reads these

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.models.scripted.layers import How, by_head
from compt_fast.models.scripted.rows import Padding, cu_seqlens_of, pad, padding_of, ranges, unpad


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """`softmax(q k^T + bias) v` in fp32, in q's dtype: q (B, H, Tq, c), k and v (B, H, Tk, c) -> (B, H, Tq, c)."""
    scores = q.float() @ k.float().transpose(2, 3)
    return (torch.softmax(scores + bias, -1) @ v.float()).to(q.dtype)


def self_attention(qkv: Tensor, cu_seqlens: Tensor, bias: Tensor, padding: Padding, how: How) -> Tensor:
    """Attention among the tokens of each row: qkv (N, 3, H, c) -> (N, H, c).

    `bias` (H, 2 T - 1) fp32 by distance, T the longest row; `padding` is looked at off the CPU alone.
    """
    if how.host:
        return torch.ops.compt_fast.packed_attention(qkv, cu_seqlens, bias)[0]
    q, k, v = qkv.unbind(1)
    steps = torch.arange(padding.index.shape[1], device=qkv.device)
    by_pair = bias[:, steps[None] - steps[:, None] + len(steps) - 1]
    mask = (by_pair + padding.hidden).to(q.dtype)
    out = F.scaled_dot_product_attention(pad(q, padding), pad(k, padding), pad(v, padding), attn_mask=mask, scale=1.0)
    return unpad(out, padding)


class Encoded(NamedTuple):
    """The encoder's `states` (N, d) as the keys and values of decoder tokens: row b's are `cu_seqlens_q[b]` to
    `cu_seqlens_q[b+1]`, its states the same of `cu_seqlens_k`.

    `kv` are each layer's projected keys and values (N, 2, H, c), empty where these are absorbed. `packed` are the
    states as the operator wants them, where it attends, else `queries` and `keys` say how both are padded.
    """

    states: Tensor
    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    kv: List[Tensor]  # noqa: UP006
    packed: Tensor
    queries: Padding
    keys: Padding


def encoded(
    states: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, kv: List[Tensor], heads: int, how: How
) -> Encoded:  # noqa: E501, UP006
    """What serves all layers; `heads` queries for each token where keys and values are absorbed."""
    none = torch.zeros(0, dtype=torch.int64)
    nothing = Padding(none, none, none)
    if how.host and len(kv) == 0:
        packed = torch.ops.compt_fast.pack_states(states, cu_seqlens_k)
        return Encoded(states, cu_seqlens_q, cu_seqlens_k, kv, packed, nothing, nothing)
    asked = cu_seqlens_q if len(kv) > 0 else cu_seqlens_q * heads
    queries, keys = padding_of(asked, states.device), padding_of(cu_seqlens_k, states.device)
    return Encoded(states, cu_seqlens_q, cu_seqlens_k, kv, none, queries, keys)


def selected(of: Encoded, rows: Tensor, heads: int, how: How) -> Encoded:
    """The same of some rows alone, by their numbers (n,) int64 on the host."""
    lengths = of.cu_seqlens_k.diff()[rows]
    tokens = ranges(of.cu_seqlens_k[rows], lengths).to(of.states.device)
    kv = [layer[tokens] for layer in of.kv]
    cu_seqlens_q = cu_seqlens_of(of.cu_seqlens_q.diff()[rows])
    return encoded(of.states[tokens], cu_seqlens_q, cu_seqlens_of(lengths), kv, heads, how)


def cross_attention(q: Tensor, of: Encoded, kv: Tensor, depth: int, how: How) -> Tensor:
    """What layer `depth`'s queries (M, H, c) attend to, (M, H, c); `kv` (2 H c, d) are its matrices."""
    if len(of.kv) > 0:
        k, v = of.kv[depth].unbind(1)
        return unpad(attend(pad(q, of.queries), pad(k, of.keys), pad(v, of.keys), of.keys.hidden), of.queries)
    heads = q.shape[1]
    k, v = kv.view(2, heads, q.shape[2], -1).unbind(0)
    absorbed = by_head(q, k, True, how).flatten(0, 1).contiguous()
    if how.host:
        attended = torch.ops.compt_fast.cross_attention(absorbed, of.packed, of.cu_seqlens_q * heads, of.cu_seqlens_k)[
            0
        ]
    else:
        attended = _shared(absorbed, of)
    return by_head(attended.view(len(q), heads, -1), v, False, how)


def _shared(queries: Tensor, of: Encoded) -> Tensor:
    """`softmax(q states^T) states` row by row, (Q, d): the states are keys and values of all heads."""
    keys = pad(of.states[:, None], of.keys)
    # The scores' products alone are not rounded to the trunk's dtype: the softmax would feel it.
    scores = pad(queries[:, None], of.queries).float() @ keys.float().transpose(2, 3)
    return unpad(torch.softmax(scores + of.keys.hidden, -1).to(keys.dtype) @ keys, of.queries)[:, 0]
