"""Triton attention of packed rows with T5's relative position bias, forward and backward.

Row b of the packed tokens attends within itself: `softmax(q k^T + bias) v`, unscaled, where the bias
of a pair depends on its head and its distance alone and is read from a table. Products of bf16 are
accumulated in fp32, softmax and sums are in fp32. No atomics: the same bits every run.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = tl.constexpr(1.4426950408889634)


def attention_fwd(qkv: Tensor, offsets: Tensor, bias: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """The attended values (N, H, D) in qkv's dtype and the softmax's log-sums (N, H) fp32.

    qkv (N, 3, H, D) fp32 or bf16, contiguous; `offsets` (B+1,) int64 on its device; `bias`
    (H, 2W - 1) fp32, of key minus query at W - 1 + distance; `longest` bounds the rows' lengths, and W
    is at least that. Tokens behind the last offset are left as they are in memory.
    """
    tokens, _, heads, width = qkv.shape
    out = torch.empty((tokens, heads, width), dtype=qkv.dtype, device=qkv.device)
    lse = torch.empty((tokens, heads), dtype=torch.float32, device=qkv.device)
    _forward[_grid(qkv, offsets, longest)](qkv, offsets, bias, out, lse, bias.shape[1], heads, **_shape(qkv))
    return out, lse


def attention_bwd(
    grad: Tensor, qkv: Tensor, out: Tensor, lse: Tensor, offsets: Tensor, bias: Tensor, longest: int
) -> Tensor:
    """The gradient of qkv, (N, 3, H, D) in its dtype, from `grad` (N, H, D), contiguous, that of `out`.

    The rest as `attention_fwd` has it.
    """
    heads = qkv.shape[2]
    qkv_grad = torch.zeros_like(qkv)
    # d softmax: each score's gradient is p (g - sum p g), and sum p g = grad . out
    inner = (grad.float() * out.float()).sum(2)
    grid = _grid(qkv, offsets, longest)
    arguments = (grad, qkv, lse, inner, offsets, bias, qkv_grad, bias.shape[1], heads)
    _backward_queries[grid](*arguments, **_shape(qkv))
    _backward_keys[grid](*arguments, **_shape(qkv))
    return qkv_grad


def block(dtype: torch.dtype, width: int) -> int:
    """Queries and keys of a tile: what fits the shared memory of every GPU, pipelined."""
    return 64 if dtype == torch.bfloat16 and width <= 64 else 32


def _shape(qkv: Tensor) -> dict[str, Any]:
    width = qkv.shape[3]
    padded = max(16, triton.next_power_of_2(width))
    return {"WIDTH": width, "PADDED": padded, "BLOCK": block(qkv.dtype, padded), "num_warps": 4}


def _grid(qkv: Tensor, offsets: Tensor, longest: int) -> tuple[int, int]:
    """Programs: tiles of the longest row, times rows and heads; those behind a shorter row's end do nothing."""
    return triton.cdiv(longest, _shape(qkv)["BLOCK"]), (len(offsets) - 1) * qkv.shape[2]


@triton.jit
def _scores(q, k, bias, span, queries, keys, length):  # type: ignore[no-untyped-def]
    """Scores in base 2 of a tile (queries, keys), -inf where there is no key; `bias` is the head's."""
    distance = keys[None, :] - queries[:, None]
    seen = (keys[None, :] < length) & (queries[:, None] < length)
    added = tl.load(bias + span // 2 + distance, mask=seen, other=0.0)
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") + added
    return tl.where(keys[None, :] < length, scores * LOG2_E, -float("inf"))


@triton.jit
def _tile(base, stride, tokens, length, WIDTH: tl.constexpr, PADDED: tl.constexpr):  # type: ignore[no-untyped-def]
    """(tokens, PADDED) of one head, zero behind the row's end and the head's width."""
    columns = tl.arange(0, PADDED)
    inside = (tokens[:, None] < length) & (columns[None, :] < WIDTH)
    return tl.load(base + tokens[:, None] * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _store(base, stride, tokens, length, values, WIDTH: tl.constexpr, PADDED: tl.constexpr):  # type: ignore[no-untyped-def]
    columns = tl.arange(0, PADDED)
    inside = (tokens[:, None] < length) & (columns[None, :] < WIDTH)
    at = base + tokens[:, None] * stride + columns[None, :]
    tl.store(at, values.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    qkv, offsets, bias, out, lse, span, heads, WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr
):
    row, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    first = tl.load(offsets + row)  # int64: tokens times width may exceed 2^31
    length = (tl.load(offsets + row + 1) - first).to(tl.int32)
    begin = tl.program_id(0) * BLOCK
    if begin >= length:
        return
    inner = heads * WIDTH
    own = qkv + first * 3 * inner + head * WIDTH
    bias += head * span
    queries = begin + tl.arange(0, BLOCK)
    q = _tile(own, 3 * inner, queries, length, WIDTH, PADDED)
    top = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    summed = tl.zeros((BLOCK, PADDED), tl.float32)
    for start in range(0, length, BLOCK):
        keys = start + tl.arange(0, BLOCK)
        k = _tile(own + inner, 3 * inner, keys, length, WIDTH, PADDED)
        v = _tile(own + 2 * inner, 3 * inner, keys, length, WIDTH, PADDED)
        scores = _scores(q, k, bias, span, queries, keys, length)
        higher = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(top - higher)
        total = total * shrink + tl.sum(weights, 1)
        summed = summed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        top = higher
    values = summed / total[:, None]
    _store(out + first * inner + head * WIDTH, inner, queries, length, values, WIDTH, PADDED)
    at = lse + (first + queries) * heads + head
    tl.store(at, (top + tl.log2(total)) / LOG2_E, mask=queries < length)


@triton.jit
def _backward_queries(  # type: ignore[no-untyped-def]
    grad, qkv, lse, inner_sums, offsets, bias, qkv_grad, span, heads,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    first = tl.load(offsets + row)
    length = (tl.load(offsets + row + 1) - first).to(tl.int32)
    begin = tl.program_id(0) * BLOCK
    if begin >= length:
        return
    inner = heads * WIDTH
    own = qkv + first * 3 * inner + head * WIDTH
    bias += head * span
    queries = begin + tl.arange(0, BLOCK)
    q = _tile(own, 3 * inner, queries, length, WIDTH, PADDED)
    out_grad = _tile(grad + first * inner + head * WIDTH, inner, queries, length, WIDTH, PADDED)
    at = (first + queries) * heads + head
    log_sum = tl.load(lse + at, mask=queries < length, other=0.0) * LOG2_E
    inner_sum = tl.load(inner_sums + at, mask=queries < length, other=0.0)
    summed = tl.zeros((BLOCK, PADDED), tl.float32)
    for start in range(0, length, BLOCK):
        keys = start + tl.arange(0, BLOCK)
        k = _tile(own + inner, 3 * inner, keys, length, WIDTH, PADDED)
        v = _tile(own + 2 * inner, 3 * inner, keys, length, WIDTH, PADDED)
        weights = tl.exp2(_scores(q, k, bias, span, queries, keys, length) - log_sum[:, None])
        weight_grad = tl.dot(out_grad, tl.trans(v), input_precision="ieee")
        score_grad = weights * (weight_grad - inner_sum[:, None])
        summed += tl.dot(score_grad.to(k.dtype), k, input_precision="ieee")
    _store(qkv_grad + first * 3 * inner + head * WIDTH, 3 * inner, queries, length, summed, WIDTH, PADDED)


@triton.jit
def _backward_keys(  # type: ignore[no-untyped-def]
    grad, qkv, lse, inner_sums, offsets, bias, qkv_grad, span, heads,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    first = tl.load(offsets + row)
    length = (tl.load(offsets + row + 1) - first).to(tl.int32)
    begin = tl.program_id(0) * BLOCK
    if begin >= length:
        return
    inner = heads * WIDTH
    own = qkv + first * 3 * inner + head * WIDTH
    bias += head * span
    keys = begin + tl.arange(0, BLOCK)
    k = _tile(own + inner, 3 * inner, keys, length, WIDTH, PADDED)
    v = _tile(own + 2 * inner, 3 * inner, keys, length, WIDTH, PADDED)
    k_sum = tl.zeros((BLOCK, PADDED), tl.float32)
    v_sum = tl.zeros((BLOCK, PADDED), tl.float32)
    for start in range(0, length, BLOCK):
        queries = start + tl.arange(0, BLOCK)
        # Queries behind the row's end read zeros, and so add nothing to either sum.
        q = _tile(own, 3 * inner, queries, length, WIDTH, PADDED)
        out_grad = _tile(grad + first * inner + head * WIDTH, inner, queries, length, WIDTH, PADDED)
        at = (first + queries) * heads + head
        log_sum = tl.load(lse + at, mask=queries < length, other=0.0) * LOG2_E
        inner_sum = tl.load(inner_sums + at, mask=queries < length, other=0.0)
        weights = tl.exp2(_scores(q, k, bias, span, queries, keys, length) - log_sum[:, None])
        v_sum += tl.dot(tl.trans(weights).to(v.dtype), out_grad, input_precision="ieee")
        weight_grad = tl.dot(out_grad, tl.trans(v), input_precision="ieee")
        score_grad = weights * (weight_grad - inner_sum[:, None])
        k_sum += tl.dot(tl.trans(score_grad).to(q.dtype), q, input_precision="ieee")
    into = qkv_grad + first * 3 * inner + head * WIDTH
    _store(into + inner, 3 * inner, keys, length, k_sum, WIDTH, PADDED)
    _store(into + 2 * inner, 3 * inner, keys, length, v_sum, WIDTH, PADDED)
