"""Triton attention of packed rows with T5's relative position bias, forward and backward.

Row b of the packed tokens attends within itself: `softmax(q k^T + bias) v`, unscaled, where the bias
of a pair depends on its head and its distance alone and is read from a table. Products of bf16 are
accumulated in fp32, softmax and sums are in fp32. No atomics: the same bits every run.

The backward makes the probabilities again from each query's largest score and the logarithm of the sum behind
it, kept apart: their sum, once rounded, would leave the probabilities of large scores off by more than the
scores' own rounding does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launching import capability, launch

LOG2_E = tl.constexpr(1.4426950408889634)


class Tile(NamedTuple):
    """`side` queries and as many keys: the largest that needs no more registers than there are. `stages` buffers of
    what a program goes past; a fourth would not fit the shared memory of every GPU.
    """

    side: int
    stages: int


def forward_tile(qkv: Tensor) -> Tile:
    """That of `attention_fwd` for qkv (N, 3, H, D)."""
    return Tile(64, 2) if qkv.dtype == torch.bfloat16 and qkv.shape[3] <= 64 else Tile(32, 3)


def backward_tile(qkv: Tensor) -> Tile:
    """That of `attention_bwd` for qkv (N, 3, H, D), by the GPU it is on."""
    if qkv.dtype != torch.bfloat16:
        return Tile(16, 3)
    # From 9.0 to 11.0 a product's operands may stay in shared memory (wgmma, tcgen05), and its four warps share them.
    # Elsewhere, 12.0 too, they take registers, and a side of 64 spills.
    if qkv.shape[3] <= 64 and 90 <= capability(qkv) < 120:
        return Tile(64, 1)
    return Tile(32, 3)


def attention_fwd(qkv: Tensor, cu_seqlens: Tensor, bias: Tensor, max_seqlen: int) -> tuple[Tensor, Tensor]:
    """The attended values (N, H, D) in qkv's dtype; and each query's largest score and the logarithm to
    base 2 of the sum of `exp(score - largest)`, (N, H, 2) fp32.

    qkv (N, 3, H, D) fp32 or bf16, contiguous; `cu_seqlens` (B+1,) int64 on its device: row b's tokens are
    `cu_seqlens[b]` to `cu_seqlens[b+1]`; `bias` (H, 2W - 1) fp32, of key minus query at W - 1 + distance;
    `max_seqlen` bounds the rows' lengths, and W is at least that. Tokens behind the last row are left as they
    are in memory.
    """
    tokens, _, heads, width = qkv.shape
    out = torch.empty((tokens, heads, width), dtype=qkv.dtype, device=qkv.device)
    sums = torch.empty((tokens, heads, 2), dtype=torch.float32, device=qkv.device)
    _start([_forward], forward_tile(qkv), qkv, cu_seqlens, bias, max_seqlen, out=out, sums=sums)
    return out, sums


def attention_bwd(
    grad: Tensor, qkv: Tensor, out: Tensor, sums: Tensor, cu_seqlens: Tensor, bias: Tensor, max_seqlen: int
) -> Tensor:
    """The gradient of qkv, (N, 3, H, D) in its dtype, from `grad` (N, H, D), contiguous, that of `out`.

    The rest as `attention_fwd` has it.
    """
    qkv_grad = torch.empty_like(qkv)
    delta = torch.empty(sums.shape[:2], dtype=torch.float32, device=qkv.device)
    rest = {"grad": grad, "out": out, "sums": sums, "delta": delta, "qkv_grad": qkv_grad}
    _start([_backward_queries, _backward_keys], backward_tile(qkv), qkv, cu_seqlens, bias, max_seqlen, **rest)
    return qkv_grad


def _start(
    kernels: list[Any], tile: Tile, qkv: Tensor, cu_seqlens: Tensor, bias: Tensor, max_seqlen: int, **rest: Tensor
) -> None:
    """A program is a tile of the longest row, of one row and head; one behind a shorter row's end does nothing."""
    heads, width = qkv.shape[2:]
    padded = max(16, triton.next_power_of_2(width))
    tiles = triton.cdiv(max_seqlen, tile.side)
    values = rest | {"qkv": qkv, "cu_seqlens": cu_seqlens, "bias": bias, "span": bias.shape[1], "heads": heads}
    values |= {"tiles": tiles, "WIDTH": width, "PADDED": padded, "BLOCK": tile.side}
    for kernel in kernels:
        launch(kernel, tiles * (len(cu_seqlens) - 1) * heads, values, stages=tile.stages)


@triton.jit
def _place(cu_seqlens, heads, tiles, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """A program's head, its row's first token (int64: times a width it may exceed 2^31) and length, and
    the first of its tile's tokens.
    """
    program = tl.program_id(0)
    row = program // tiles // heads
    first = tl.load(cu_seqlens + row)
    length = (tl.load(cu_seqlens + row + 1) - first).to(tl.int32)
    return program // tiles % heads, first, length, program % tiles * BLOCK


@triton.jit
def _of_head(qkv, bias, first, head, stride, span, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where the queries of a row and head begin, and the head's bias."""
    return qkv + first * 3 * stride + head * WIDTH, bias + head * span


@triton.jit
def _tile(base, stride, tokens, length, WIDTH: tl.constexpr, PADDED: tl.constexpr):  # type: ignore[no-untyped-def]
    """(tokens, PADDED) of one head, zero behind the row's end and the head's width."""
    columns = tl.arange(0, PADDED)
    inside = (tokens[:, None] < length) & (columns[None, :] < WIDTH)
    return tl.load(base + tokens[:, None] * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _store(base, stride, tokens, length, values, WIDTH: tl.constexpr, PADDED: tl.constexpr):  # type: ignore[no-untyped-def]
    """The same way back into memory, rounded to its dtype."""
    columns = tl.arange(0, PADDED)
    inside = (tokens[:, None] < length) & (columns[None, :] < WIDTH)
    at = base + tokens[:, None] * stride + columns[None, :]
    tl.store(at, values.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _scores(left, right, bias, span, queries, keys, length):  # type: ignore[no-untyped-def]
    """Scores of `left` with `right`, -inf where there is no key; `bias` is the head's.

    `queries` and `keys` number the rows and the columns, or the columns and the rows.
    """
    # The bias' table has a pair of distance 0 in its middle. It is read for pairs within the row alone, whose distances
    # it is known to hold. A query behind the end has scores like any other: nobody stores what they come to.
    seen = (keys < length) & (queries < length)
    added = tl.load(bias + span // 2 + keys - queries, mask=seen, other=0.0)
    scores = tl.dot(left, tl.trans(right), input_precision="ieee") + added
    return tl.where(keys < length, scores, -float("inf"))


@triton.jit
def _probabilities(scores, top, log_total):  # type: ignore[no-untyped-def]
    return tl.exp2((scores - top) * LOG2_E - log_total)


@triton.jit
def _sums_of(sums, at, inside):  # type: ignore[no-untyped-def]
    """The queries' largest scores and the logarithms of what `_forward` summed behind them."""
    return tl.load(sums + 2 * at, mask=inside, other=0.0), tl.load(sums + 2 * at + 1, mask=inside, other=0.0)


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    qkv, cu_seqlens, bias, out, sums, span, heads, tiles,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program owns BLOCK queries of one row and head, and takes them past all keys of the row."""
    head, first, length, begin = _place(cu_seqlens, heads, tiles, BLOCK)
    if begin >= length:  # a tile of the longest row, which this one is too short for
        return
    # A token's q, k and v of all heads lie side by side: 3 * stride numbers from one token to the next.
    stride = heads * WIDTH
    q_base, bias = _of_head(qkv, bias, first, head, stride, span, WIDTH)
    queries = begin + tl.arange(0, BLOCK)
    q = _tile(q_base, 3 * stride, queries, length, WIDTH, PADDED)
    # Online softmax: the largest score so far, the sum of exp(score - largest), and the sum of values under the same
    # factors. A key that is larger shrinks what was summed before. The first tile always has a key, so that `top` is
    # finite from then on, and -inf minus it gives a factor of 0.
    top = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    summed = tl.zeros((BLOCK, PADDED), tl.float32)
    for start in range(0, length, BLOCK):
        keys = start + tl.arange(0, BLOCK)
        k = _tile(q_base + stride, 3 * stride, keys, length, WIDTH, PADDED)
        v = _tile(q_base + 2 * stride, 3 * stride, keys, length, WIDTH, PADDED)
        scores = _scores(q, k, bias, span, queries[:, None], keys[None, :], length)
        higher = tl.maximum(top, tl.max(scores, 1))
        p = tl.exp2((scores - higher[:, None]) * LOG2_E)
        shrink = tl.exp2((top - higher) * LOG2_E)
        total = total * shrink + tl.sum(p, 1)
        summed = summed * shrink[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        top = higher
    values = summed / total[:, None]
    _store(out + first * stride + head * WIDTH, stride, queries, length, values, WIDTH, PADDED)
    at = sums + 2 * ((first + queries) * heads + head)
    tl.store(at, top, mask=queries < length)
    tl.store(at + 1, tl.log2(total), mask=queries < length)


@triton.jit
def _backward_queries(  # type: ignore[no-untyped-def]
    grad, qkv, out, sums, delta, cu_seqlens, bias, qkv_grad, span, heads, tiles,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program owns BLOCK queries, as in `_forward`: dq_i = sum_j ds_ij k_j. It leaves its queries' `delta` behind."""
    head, first, length, begin = _place(cu_seqlens, heads, tiles, BLOCK)
    if begin >= length:
        return
    stride = heads * WIDTH
    q_base, bias = _of_head(qkv, bias, first, head, stride, span, WIDTH)
    queries = begin + tl.arange(0, BLOCK)
    q = _tile(q_base, 3 * stride, queries, length, WIDTH, PADDED)
    out_grad = _tile(grad + first * stride + head * WIDTH, stride, queries, length, WIDTH, PADDED)
    attended = _tile(out + first * stride + head * WIDTH, stride, queries, length, WIDTH, PADDED)
    at = (first + queries) * heads + head
    top, log_total = _sums_of(sums, at, queries < length)
    # d softmax: each score's gradient is p (g - sum p g), and sum p g = grad . out
    d = tl.sum(out_grad.to(tl.float32) * attended.to(tl.float32), 1)
    tl.store(delta + at, d, mask=queries < length)
    q_sum = tl.zeros((BLOCK, PADDED), tl.float32)
    for start in range(0, length, BLOCK):
        # Keys behind the row's end have a score of -inf, and so a probability and a gradient of 0.
        keys = start + tl.arange(0, BLOCK)
        k = _tile(q_base + stride, 3 * stride, keys, length, WIDTH, PADDED)
        v = _tile(q_base + 2 * stride, 3 * stride, keys, length, WIDTH, PADDED)
        scores = _scores(q, k, bias, span, queries[:, None], keys[None, :], length)
        p = _probabilities(scores, top[:, None], log_total[:, None])
        p_grad = tl.dot(out_grad, tl.trans(v), input_precision="ieee")
        score_grad = p * (p_grad - d[:, None])
        q_sum += tl.dot(score_grad.to(k.dtype), k, input_precision="ieee")
    _store(qkv_grad + first * 3 * stride + head * WIDTH, 3 * stride, queries, length, q_sum, WIDTH, PADDED)


@triton.jit
def _backward_keys(  # type: ignore[no-untyped-def]
    grad, qkv, sums, delta, cu_seqlens, bias, qkv_grad, span, heads, tiles,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program owns BLOCK keys, and takes all queries of the row past them: dk_j and dv_j are sums over i."""
    head, first, length, begin = _place(cu_seqlens, heads, tiles, BLOCK)
    if begin >= length:
        return
    stride = heads * WIDTH
    q_base, bias = _of_head(qkv, bias, first, head, stride, span, WIDTH)
    keys = begin + tl.arange(0, BLOCK)
    k = _tile(q_base + stride, 3 * stride, keys, length, WIDTH, PADDED)
    v = _tile(q_base + 2 * stride, 3 * stride, keys, length, WIDTH, PADDED)
    k_sum = tl.zeros((BLOCK, PADDED), tl.float32)
    v_sum = tl.zeros((BLOCK, PADDED), tl.float32)
    for start in range(0, length, BLOCK):
        queries = start + tl.arange(0, BLOCK)
        # Queries behind the row's end read zeros, and so add nothing to either sum.
        q = _tile(q_base, 3 * stride, queries, length, WIDTH, PADDED)
        out_grad = _tile(grad + first * stride + head * WIDTH, stride, queries, length, WIDTH, PADDED)
        at = (first + queries) * heads + head
        top, log_total = _sums_of(sums, at, queries < length)
        d = tl.load(delta + at, mask=queries < length, other=0.0)
        # With the keys as rows the tile stands as its two products want it: nothing is transposed in registers.
        scores = _scores(k, q, bias, span, queries[None, :], keys[:, None], length)
        p = _probabilities(scores, top[None, :], log_total[None, :])
        v_sum += tl.dot(p.to(v.dtype), out_grad, input_precision="ieee")
        p_grad = tl.dot(v, tl.trans(out_grad), input_precision="ieee")
        score_grad = p * (p_grad - d[None, :])
        k_sum += tl.dot(score_grad.to(q.dtype), q, input_precision="ieee")
    into = qkv_grad + first * 3 * stride + head * WIDTH
    _store(into + stride, 3 * stride, keys, length, k_sum, WIDTH, PADDED)
    _store(into + 2 * stride, 3 * stride, keys, length, v_sum, WIDTH, PADDED)
