"""Triton cross-attention to states that are keys and values at once: `softmax(q states^T) states`, row by row.

A row has few queries, a label's tokens times the heads, and each is as wide as the trunk: too wide for the sums of a
tile to stay in registers while keys go by. So scores and probabilities (Q, K) stand in memory, which is little, since
queries are few, and each kernel is one product, or what stands between two. No atomics: the same bits every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launching import launch

STAGES = 3
SCORES = 4096  # of a program of what stands between two products, about
KEYS = {torch.bfloat16: 64, torch.float32: 32}
"""Keys of a tile, and numbers of a query and a state that are multiplied at a time: products of fp32 are made in
registers, which hold fewer.
"""
COLUMNS = {torch.bfloat16: 128, torch.float32: 32}
"""Numbers of a result that a program owns."""


@dataclass(frozen=True)
class Rows:
    """The B rows: `cu_seqlens_q` and `cu_seqlens_k` (B+1,) int64 on the device, bounds of a row's queries and keys, and
    the `dtype` of queries and states, fp32 or bf16.
    """

    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    max_queries: int
    max_keys: int
    dtype: torch.dtype

    @property
    def keys(self) -> int:
        """Keys of a tile."""
        return KEYS[self.dtype]

    @property
    def key_tiles(self) -> int:
        return triton.cdiv(self.max_keys, self.keys)

    @property
    def stride(self) -> int:
        """The numbers from one query's scores to the next one's."""
        return self.key_tiles * self.keys

    @property
    def queries(self) -> int:
        """Queries of a tile, no fewer than a product takes."""
        return 16 if self.max_queries <= 16 else 32

    @property
    def query_tiles(self) -> int:
        return triton.cdiv(self.max_queries, self.queries)

    def start(self, kernel: Any, tiles: tuple[int, int], values: dict[str, Any], **sizes: int) -> None:
        """A program is a row and a tile of it, numbered by `tiles` along both sides."""
        given: dict[str, Any] = {"QUERIES": self.queries, "KEYS": self.keys, "CHUNK": self.keys}
        given |= {"COLUMNS": COLUMNS[self.dtype], "stride": self.stride, "tiles": tiles[0], "more": tiles[1]}
        given |= {"cu_seqlens_q": self.cu_seqlens_q, "cu_seqlens_k": self.cu_seqlens_k, **values, **sizes}
        launch(kernel, (len(self.cu_seqlens_q) - 1) * tiles[0] * tiles[1], given, stages=STAGES)

    def start_by_query(self, kernel: Any, values: dict[str, Any]) -> None:
        """A program is a row and some of its queries, with all their scores."""
        padded = triton.next_power_of_2(self.stride)
        queries = max(1, SCORES // padded)
        self.start(kernel, (triton.cdiv(self.max_queries, queries), 1), values, QUERIES=queries, PADDED=padded)


def products(queries: Tensor, states: Tensor, rows: Rows) -> Tensor:
    """Each query's products with its row's states: queries (Q, d) and states (N, d) -> (Q, K) fp32, K = `rows.stride`.

    What is behind a row's keys is left as it is in memory, here and below.
    """
    out = torch.empty((len(queries), rows.stride), dtype=torch.float32, device=queries.device)
    values = {"queries": queries, "states": states, "out": out}
    rows.start(_products, (rows.query_tiles, rows.key_tiles), values, WIDTH=states.shape[1])
    return out


def softmax(scores: Tensor, rows: Rows) -> Tensor:
    """The probabilities (Q, K), in the queries' dtype, of the scores that `products` gave."""
    out = torch.empty(scores.shape, dtype=rows.dtype, device=scores.device)
    rows.start_by_query(_softmax, {"scores": scores, "out": out})
    return out


def softmax_backward(probabilities: Tensor, grad: Tensor, rows: Rows) -> Tensor:
    """The scores' gradient `p (g - sum(p g))` (Q, K) in the probabilities' dtype, from theirs (Q, K) fp32."""
    out = torch.empty_like(probabilities)
    rows.start_by_query(_softmax_backward, {"probabilities": probabilities, "grad": grad, "out": out})
    return out


def weighted_sum(weights: Tensor, states: Tensor, rows: Rows) -> Tensor:
    """The sum of its row's states by each query's weights (Q, K): (Q, d) in states' dtype."""
    out = torch.empty((len(weights), states.shape[1]), dtype=states.dtype, device=states.device)
    tiles = (rows.query_tiles, triton.cdiv(states.shape[1], COLUMNS[rows.dtype]))
    values = {"weights": weights, "states": states, "out": out}
    rows.start(_weighted_sum, tiles, values, WIDTH=states.shape[1])
    return out


def add_states_grad(
    score_grad: Tensor, probabilities: Tensor, queries: Tensor, grad: Tensor, total: Tensor, rows: Rows
) -> None:
    """Add to `total` (N, d) fp32 what reaches the states as keys, by their scores, and as values.

    `score_grad` and `probabilities` (Q, K); `queries` and `grad`, that of the attended values, (Q, d); all in the
    trunk's dtype.
    """
    tiles = (rows.key_tiles, triton.cdiv(total.shape[1], COLUMNS[rows.dtype]))
    values = {"score_grad": score_grad, "probabilities": probabilities, "queries": queries, "grad": grad}
    rows.start(_states_grad, tiles, values | {"total": total}, WIDTH=total.shape[1])


@triton.jit
def _place(cu_seqlens_q, cu_seqlens_k, tiles, more):  # type: ignore[no-untyped-def]
    """A program's row: its first query and key (int64: times a width they may exceed 2^31), how many it has of both,
    and the program's two tiles.
    """
    program = tl.program_id(0)
    row = program // (tiles * more)
    q, k = tl.load(cu_seqlens_q + row), tl.load(cu_seqlens_k + row)
    queries = (tl.load(cu_seqlens_q + row + 1) - q).to(tl.int32)
    keys = (tl.load(cu_seqlens_k + row + 1) - k).to(tl.int32)
    return q, k, queries, keys, program // more % tiles, program % more


@triton.jit
def _tile(base, rows, columns, stride, row_end, column_end):  # type: ignore[no-untyped-def]
    """(rows, columns) of a matrix, zero behind its ends."""
    inside = (rows[:, None] < row_end) & (columns[None, :] < column_end)
    return tl.load(base + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def _store(base, rows, columns, stride, row_end, column_end, values):  # type: ignore[no-untyped-def]
    """The same way back into memory, rounded to its dtype."""
    inside = (rows[:, None] < row_end) & (columns[None, :] < column_end)
    at = base + rows[:, None] * stride + columns[None, :]
    tl.store(at, values.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _products(  # type: ignore[no-untyped-def]
    queries, states, out, cu_seqlens_q, cu_seqlens_k, stride, tiles, more,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """A program owns QUERIES queries and KEYS keys of a row, and goes through their numbers."""
    q, k, num_queries, num_keys, query_tile, key_tile = _place(cu_seqlens_q, cu_seqlens_k, tiles, more)
    # Tiles are counted for the longest row; most rows are through before.
    if (query_tile * QUERIES >= num_queries) | (key_tile * KEYS >= num_keys):
        return
    query = query_tile * QUERIES + tl.arange(0, QUERIES)
    key = key_tile * KEYS + tl.arange(0, KEYS)
    scores = tl.zeros((QUERIES, KEYS), tl.float32)
    for start in range(0, WIDTH, CHUNK):
        columns = start + tl.arange(0, CHUNK)
        left = _tile(queries + q * WIDTH, query, columns, WIDTH, num_queries, WIDTH)
        right = _tile(states + k * WIDTH, key, columns, WIDTH, num_keys, WIDTH)
        scores += tl.dot(left, tl.trans(right), input_precision="ieee")
    _store(out + q * stride, query, key, stride, num_queries, num_keys, scores)


@triton.jit
def _softmax(  # type: ignore[no-untyped-def]
    scores, out, cu_seqlens_q, cu_seqlens_k, stride, tiles, more, PADDED: tl.constexpr, QUERIES: tl.constexpr
):
    """A program owns QUERIES queries of a row with all their scores."""
    q, _, num_queries, num_keys, tile, _ = _place(cu_seqlens_q, cu_seqlens_k, tiles, more)
    if tile * QUERIES >= num_queries:
        return
    query, key = tile * QUERIES + tl.arange(0, QUERIES), tl.arange(0, PADDED)
    s = _tile(scores + q * stride, query, key, stride, num_queries, num_keys)
    s = tl.where(key[None, :] < num_keys, s, -float("inf"))
    p = tl.exp(s - tl.max(s, 1)[:, None])
    _store(out + q * stride, query, key, stride, num_queries, num_keys, p / tl.sum(p, 1)[:, None])


@triton.jit
def _softmax_backward(  # type: ignore[no-untyped-def]
    probabilities, grad, out, cu_seqlens_q, cu_seqlens_k, stride, tiles, more,
    PADDED: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    """A program owns what one of `_softmax` does."""
    q, _, num_queries, num_keys, tile, _ = _place(cu_seqlens_q, cu_seqlens_k, tiles, more)
    if tile * QUERIES >= num_queries:
        return
    query, key = tile * QUERIES + tl.arange(0, QUERIES), tl.arange(0, PADDED)
    p = _tile(probabilities + q * stride, query, key, stride, num_queries, num_keys).to(tl.float32)
    g = _tile(grad + q * stride, query, key, stride, num_queries, num_keys)
    score_grad = p * (g - tl.sum(p * g, 1)[:, None])
    _store(out + q * stride, query, key, stride, num_queries, num_keys, score_grad)


@triton.jit
def _weighted_sum(  # type: ignore[no-untyped-def]
    weights, states, out, cu_seqlens_q, cu_seqlens_k, stride, tiles, more,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """A program owns COLUMNS numbers of the results of QUERIES queries of a row, and goes through all its keys."""
    q, k, num_queries, num_keys, query_tile, column_tile = _place(cu_seqlens_q, cu_seqlens_k, tiles, more)
    if query_tile * QUERIES >= num_queries:
        return
    query = query_tile * QUERIES + tl.arange(0, QUERIES)
    columns = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((QUERIES, COLUMNS), tl.float32)
    for start in range(0, num_keys, KEYS):
        key = start + tl.arange(0, KEYS)
        left = _tile(weights + q * stride, query, key, stride, num_queries, num_keys)
        right = _tile(states + k * WIDTH, key, columns, WIDTH, num_keys, WIDTH)
        total += tl.dot(left, right, input_precision="ieee")
    _store(out + q * WIDTH, query, columns, WIDTH, num_queries, WIDTH, total)


@triton.jit
def _states_grad(  # type: ignore[no-untyped-def]
    score_grad, probabilities, queries, grad, total, cu_seqlens_q, cu_seqlens_k, stride, tiles, more,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """A program owns COLUMNS numbers of the gradients of KEYS states of a row, and goes through all its queries."""
    q, k, num_queries, num_keys, key_tile, column_tile = _place(cu_seqlens_q, cu_seqlens_k, tiles, more)
    if key_tile * KEYS >= num_keys:
        return
    key = key_tile * KEYS + tl.arange(0, KEYS)
    columns = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    states_grad = _tile(total + k * WIDTH, key, columns, WIDTH, num_keys, WIDTH)
    for start in range(0, num_queries, QUERIES):
        query = start + tl.arange(0, QUERIES)
        # Behind the row's queries all four read zeros, and behind its keys the weights do.
        by_score = _tile(score_grad + q * stride, query, key, stride, num_queries, num_keys)
        by_value = _tile(probabilities + q * stride, query, key, stride, num_queries, num_keys)
        row_queries = _tile(queries + q * WIDTH, query, columns, WIDTH, num_queries, WIDTH)
        values = _tile(grad + q * WIDTH, query, columns, WIDTH, num_queries, WIDTH)
        states_grad += tl.dot(tl.trans(by_score), row_queries, input_precision="ieee")
        states_grad += tl.dot(tl.trans(by_value), values, input_precision="ieee")
    _store(total + k * WIDTH, key, columns, WIDTH, num_keys, WIDTH, states_grad)
