"""The Triton cross-attention to shared states against one row at a time in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from compt_fast.kernels.cross_attention import Rows
from compt_fast.ops import paths
from compt_fast.ops.cross_attention import KernelStates, SharedStates, bounded_states, shared_states
from compt_fast.ops.varlen import cu_seqlens_of
from tests.helpers import large_scores
from tests.helpers.compositions import DEVICE

AT_MOST = large_scores.AT_MOST
ON_A_GPU = large_scores.ON_A_GPU if torch.cuda.is_available() else AT_MOST

DTYPES = [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
CASES = [
    ([1], [1], 16),  # queries and keys of each row, and their width
    ([12, 3, 40], [5, 70, 64], 24),
    ([36, 1], [3, 130], 130),
]


def drawn(queries: list[int], keys: list[int], width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Queries, states, and two gradients of what they attend to."""
    generator = torch.Generator().manual_seed(0)
    sizes = sum(queries), sum(keys), sum(queries), sum(queries)
    q, states, *grads = (torch.randn(n, width, generator=generator).to(DEVICE, dtype) for n in sizes)
    return q, states, grads


def exact(queries: Tensor, states: Tensor, q_lengths: list[int], k_lengths: list[int]) -> Tensor:
    rows = zip(queries.split(q_lengths), states.split(k_lengths), strict=True)
    return torch.cat([large_scores.read(q, e) for q, e in rows])


def of_kernels(states: Tensor, queries: list[int], keys: list[int], room: int = 0) -> KernelStates:
    """With bounds that are larger by `room` than the longest row."""
    cu_seqlens = (cu_seqlens_of(lengths).to(DEVICE) for lengths in (queries, keys))
    return KernelStates(states, *cu_seqlens, max(queries) + room, max(keys) + room)


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
@pytest.mark.parametrize(("queries", "keys", "width"), CASES)
def test_attention_and_its_gradients(queries: list[int], keys: list[int], width: int, dtype: torch.dtype) -> None:
    q, states, grads = drawn(queries, keys, width, dtype)
    leaves = [x.double().requires_grad_() for x in (q, states)]
    wanted = exact(*leaves, queries, keys)
    shared = of_kernels(states, queries, keys, room=30)
    tolerance = 2e-5 if dtype == torch.float32 else 3e-2
    out, saved = shared.attend(q)
    torch.testing.assert_close(out.double(), wanted.detach(), rtol=tolerance, atol=tolerance)
    for grad in grads:  # a batch's states serve every layer, and their gradients add up
        wanted.backward(grad.double(), retain_graph=True)
        found = shared.attend_backward(grad, q, saved)
    once = torch.autograd.grad(exact(*leaves, queries, keys), leaves[0], grads[1].double())[0]
    torch.testing.assert_close(found.double(), once, rtol=tolerance, atol=4 * tolerance)
    assert leaves[1].grad is not None and shared.grad().dtype == torch.float32
    torch.testing.assert_close(shared.grad().double(), leaves[1].grad, rtol=tolerance, atol=8 * tolerance)


@pytest.mark.parametrize("score", [0, 100, 200])
@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
def test_large_scores_round_as_in_torch(score: float, dtype: torch.dtype) -> None:
    q, states, grad = (x.to(DEVICE, dtype) for x in large_scores.cross_attention(24, 90, 64, score))
    shared = of_kernels(states, [24], [90])
    out, saved = shared.attend(q)
    found = out, shared.attend_backward(grad, q, saved), shared.grad()
    assert max(large_scores.errors(large_scores.read, (q, states), grad, found)) < (
        ON_A_GPU if dtype == torch.float32 else AT_MOST
    )


def test_a_row_that_is_not_finite_spoils_no_other() -> None:
    queries, keys = [3, 2, 4], [5, 66, 7]
    q, states, (grad, _) = drawn(queries, keys, 16, torch.float32)
    states[5:71] = torch.nan
    shared = of_kernels(states, queries, keys)
    out, saved = shared.attend(q)
    found = shared.attend_backward(grad, q, saved)
    for each in (out, found):
        assert each.isfinite().all(1).tolist() == [True] * 3 + [False] * 2 + [True] * 4
    assert shared.grad().isfinite().all(1).tolist() == [True] * 5 + [False] * 66 + [True] * 7


def test_what_stands_behind_the_last_row_is_neither_read_nor_spoiled() -> None:
    queries, keys = [3, 2], [5, 6]
    q, states, (grad, _) = drawn(queries, [*keys, 4], 16, torch.float32)
    states[11:] = torch.nan
    shared = of_kernels(states, queries, keys)
    out, saved = shared.attend(q)
    assert out.isfinite().all() and shared.attend_backward(grad, q, saved).isfinite().all()
    assert shared.grad()[:11].isfinite().all() and (shared.grad()[11:] == 0).all()


def test_kernels_are_taken_where_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    states, cu_seqlens = torch.zeros(4, 8, device=DEVICE), cu_seqlens_of([4])

    def made() -> list[SharedStates]:
        there = cu_seqlens.to(DEVICE)
        return [shared_states(states, cu_seqlens, cu_seqlens), bounded_states(states, there, there, 4, 4, refused)]

    def refused() -> None:
        raise LookupError

    monkeypatch.setattr(paths.native, "load", lambda: False)
    monkeypatch.setattr(paths, "unavailable", lambda device: "")
    assert all(isinstance(one, KernelStates) for one in made())
    monkeypatch.setattr(paths, "unavailable", lambda device: "not here")
    with pytest.raises(LookupError):
        made()


def test_rows_of_scores_are_whole_tiles() -> None:
    cu_seqlens = cu_seqlens_of([3])
    rows = [Rows(cu_seqlens, cu_seqlens, 1, n, torch.bfloat16) for n in (1, 64, 65)]
    assert [one.stride for one in rows] == [64, 64, 128]
