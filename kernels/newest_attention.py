"""Triton attention of the newest token of each row to those before it, for decoding: softmax over few keys.

A program is a row and a head. The newest key is in its registers, so that the cache is read only where it was written
before this launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launching import launch

KEYS = 16  # of a tile: as many as most labels have tokens


def attend_newest(qkv: Tensor, cache: Tensor, written: int, bias: Tensor) -> Tensor:
    """`softmax(q k^T + bias) v` (n, H, c) of the newest tokens qkv (n, 3, H, c), whose keys and values go to
    `cache[:, written]`, of (n, room, 2, H, c).

    qkv and cache fp32 or bf16; bias (H, 2W - 1) fp32, of a key at distance d at W - 1 + d. All contiguous.
    """
    rows, _, heads, width = qkv.shape
    out = torch.empty_like(qkv[:, 0], memory_format=torch.contiguous_format)
    values = {"qkv": qkv, "cache": cache, "bias": bias, "out": out, "written": written}
    values |= {"room": cache.shape[1], "reach": bias.shape[1] // 2, "heads": heads}
    sizes = {"WIDTH": width, "PADDED": triton.next_power_of_2(width), "KEYS": KEYS}
    launch(_newest, rows * heads, values | sizes, warps=1)
    return out


@triton.jit(do_not_specialize=["written"])
def _newest(  # type: ignore[no-untyped-def]
    qkv, cache, bias, out, written, room, reach, heads,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """A program owns the result of one row's head. `reach` is where the bias of a token to itself stands."""
    row, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    inner = heads * WIDTH
    columns = tl.arange(0, PADDED)
    inside = columns < WIDTH
    # int64: all rows' numbers together may exceed 2^31.
    newest = qkv + row.to(tl.int64) * 3 * inner + head * WIDTH + columns
    kept = cache + row.to(tl.int64) * room * 2 * inner + head * WIDTH + columns
    q = tl.load(newest, mask=inside, other=0.0).to(tl.float32)
    key, value = tl.load(newest + inner, mask=inside, other=0.0), tl.load(newest + 2 * inner, mask=inside, other=0.0)
    tl.store(kept + written * 2 * inner, key, mask=inside)
    tl.store(kept + written * 2 * inner + inner, value, mask=inside)
    biases = bias + head * (2 * reach + 1) + reach - written
    # The newest key begins the softmax: its score is the top so far, its weight 1.
    top = tl.sum(q * key.to(tl.float32), 0) + tl.load(biases + written)
    total = top * 0 + 1
    summed = value.to(tl.float32)
    for start in range(0, written, KEYS):
        keys = start + tl.arange(0, KEYS)
        there = keys < written
        tile = kept[None, :] + keys[:, None] * 2 * inner
        mask = there[:, None] & inside[None, :]
        scores = tl.sum(q[None, :] * tl.load(tile, mask=mask, other=0.0).to(tl.float32), 1)
        scores = tl.where(there, scores + tl.load(biases + keys, mask=there, other=0.0), -float("inf"))
        higher = tl.maximum(top, tl.max(scores, 0))
        weights, scale = tl.exp(scores - higher), tl.exp(top - higher)
        values = tl.load(tile + inner, mask=mask, other=0.0).to(tl.float32)
        summed = summed * scale + tl.sum(weights[:, None] * values, 0)
        total = total * scale + tl.sum(weights, 0)
        top = higher
    at = out + row.to(tl.int64) * inner + head * WIDTH + columns
    tl.store(at, (summed / total).to(out.dtype.element_ty), mask=inside)
