"""Attention of packed rows for TorchScript: the encoder's, the decoder's to itself and to the encoder."""

# No postponed annotations: TorchScript takes those of a tuple's fields for types.

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.models.scripted.products import How, by_head
from compt_fast.models.scripted.rows import Padding, cu_seqlens_of, no_padding, pad, padding_of, ranges, unpad


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
    steps = torch.arange(padding.at.shape[1], device=qkv.device)
    by_pair = bias[:, steps[None] - steps[:, None] + len(steps) - 1]
    mask = (by_pair + padding.hidden).to(q.dtype)
    out = F.scaled_dot_product_attention(pad(q, padding), pad(k, padding), pad(v, padding), attn_mask=mask, scale=1.0)
    return unpad(out, padding)


class Encoded(NamedTuple):
    """The encoder's `states` (N, d) as the keys and values of decoder tokens: row b's are `cu_seqlens_q[b]` to
    `cu_seqlens_q[b+1]`, its states the same of `cu_seqlens_k`.

    Where keys and values are not absorbed, `kv` are those of each layer that has asked, (N, 2, H, c). `packed` are the
    states as the operator wants them, where it attends, else `queries` and `keys` say how both are padded.
    """

    states: Tensor
    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    absorbed: bool
    kv: list[Tensor]
    packed: Tensor
    queries: Padding
    keys: Padding


def encoded(
    states: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, absorbed: bool, kv: list[Tensor], heads: int, how: How
) -> Encoded:
    """What serves all layers; a token asks for each of `heads` where keys and values are absorbed."""
    if how.host and absorbed:
        packed = torch.ops.compt_fast.pack_states(states, cu_seqlens_k)
        return Encoded(states, cu_seqlens_q, cu_seqlens_k, True, kv, packed, no_padding(), no_padding())
    queries = padding_of(cu_seqlens_q * heads if absorbed else cu_seqlens_q, states.device)
    keys = padding_of(cu_seqlens_k, states.device)
    return Encoded(states, cu_seqlens_q, cu_seqlens_k, absorbed, kv, states, queries, keys)


def selected(of: Encoded, rows: Tensor, heads: int, how: How) -> Encoded:
    """The same of some rows alone, by their numbers (n,) int64 on the host."""
    lengths = of.cu_seqlens_k.diff()[rows]
    tokens = ranges(of.cu_seqlens_k[rows], lengths).to(of.states.device)
    kv = [layer[tokens] for layer in of.kv]
    cu_seqlens_q = cu_seqlens_of(of.cu_seqlens_q.diff()[rows])
    return encoded(of.states[tokens], cu_seqlens_q, cu_seqlens_of(lengths), of.absorbed, kv, heads, how)


def cross_attention(q: Tensor, of: Encoded, kv: Tensor, depth: int, how: How) -> Tensor:
    """What layer `depth`'s queries (M, H, c) attend to, (M, H, c); `kv` (2 H c, d) are its matrices."""
    heads, width = q.shape[1], q.shape[2]
    if not of.absorbed:
        if depth == len(of.kv):
            of.kv.append(F.linear(of.states, kv).view(len(of.states), 2, heads, width))
        k, v = of.kv[depth].unbind(1)
        return unpad(attend(pad(q, of.queries), pad(k, of.keys), pad(v, of.keys), of.keys.hidden), of.queries)
    k, v = kv.view(2, heads, width, -1).unbind(0)
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
