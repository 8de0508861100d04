"""Cross-attention of queries to packed rows of states, compiled, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from compt_fast import native
from tests.helpers import large_scores

TYPES = [torch.float32, torch.bfloat16]
ROWS = [
    ([3], [5]),
    ([12, 24, 0, 7], [40, 1, 9, 17]),
    ([130, 64, 1], [3, 70, 200]),
    ([2, 0], [4, 0]),
]
WIDTHS = [1, 7, 24, 64]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    assert native.load(), native.status().why


def cu_seqlens_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def plain(queries: Tensor, states: Tensor, q: list[int], k: list[int]) -> Tensor:
    parts = zip(queries.split(q), states.split(k), strict=True)
    return torch.cat([torch.softmax(asked @ read.T, 1) @ read for asked, read in parts if len(asked)])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("q", "k"), ROWS)
def test_cross_attention_and_its_gradients(q: list[int], k: list[int], width: int, dtype: torch.dtype) -> None:
    scale = width**-0.5
    queries = drawn(sum(q), width, dtype=dtype)
    states = (drawn(sum(k), width, seed=1) * scale).to(dtype)
    grad = drawn(sum(q), width, dtype=dtype, seed=2)
    cu_seqlens_q, cu_seqlens_k = cu_seqlens_of(q), cu_seqlens_of(k)
    leaves = [x.double().requires_grad_() for x in (queries, states)]
    right = plain(*leaves, q, k)
    right_grads = torch.autograd.grad(right, leaves, grad.double())

    packed = torch.ops.compt_fast.pack_states(states, cu_seqlens_k)
    out, lse = torch.ops.compt_fast.cross_attention(queries, packed, cu_seqlens_q, cu_seqlens_k)
    before = drawn(sum(k), width, seed=3)
    grad_states = before.clone()
    grad_queries = torch.ops.compt_fast.cross_attention_backward(
        grad, queries, lse, packed, cu_seqlens_q, cu_seqlens_k, grad_states
    )
    assert out.dtype == grad_queries.dtype == dtype
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(out.double(), right.detach(), rtol=tolerance, atol=tolerance * scale)
    for found, wanted in ((grad_queries, right_grads[0]), (grad_states - before, right_grads[1])):
        size = float(wanted.norm())
        assert float((found.double() - wanted).norm()) <= tolerance * size + 1e-6


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("score", [0, 100, 200])
@pytest.mark.parametrize(("queries", "states", "width"), [(24, 70, 512), (96, 9, 768), (7, 33, 100)])
def test_large_scores_round_as_in_torch(
    queries: int, states: int, width: int, score: float, dtype: torch.dtype
) -> None:
    q, s, grad = (x.to(dtype) for x in large_scores.cross_attention(queries, states, width, score))
    cu_seqlens = cu_seqlens_of([queries]), cu_seqlens_of([states])
    packed = torch.ops.compt_fast.pack_states(s, cu_seqlens[1])
    out, lse = torch.ops.compt_fast.cross_attention(q, packed, *cu_seqlens)
    s_grad = torch.zeros(s.shape)
    q_grad = torch.ops.compt_fast.cross_attention_backward(grad, q, lse, packed, *cu_seqlens, s_grad)
    assert max(large_scores.errors(large_scores.read, (q, s), grad, (out, q_grad, s_grad))) < large_scores.AT_MOST


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("length", "most"), [(320, 2), (1, 18)])
def test_the_memory_of_packed_states(length: int, most: int, dtype: torch.dtype) -> None:
    """In multiples of the states' own; a processor without products of bfloat16 keeps them as floats."""
    states = drawn(640, 64, dtype=dtype)
    packed = torch.ops.compt_fast.pack_states(states, torch.arange(0, 641, length))
    assert packed.nbytes <= most * 640 * 64 * torch.float32.itemsize
    if dtype == torch.float32:
        assert packed.nbytes >= 2 * states.nbytes


def test_the_same_bits_on_any_number_of_threads() -> None:
    q, k = [24, 36, 12, 72] * 4, [30, 60, 90, 20] * 4
    cu_seqlens_q, cu_seqlens_k = cu_seqlens_of(q), cu_seqlens_of(k)
    queries, states, grad = drawn(sum(q), 48), drawn(sum(k), 48, seed=1), drawn(sum(q), 48, seed=2)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            packed = torch.ops.compt_fast.pack_states(states, cu_seqlens_k)
            out, lse = torch.ops.compt_fast.cross_attention(queries, packed, cu_seqlens_q, cu_seqlens_k)
            sums = torch.zeros_like(states)
            arguments = (grad, queries, lse, packed, cu_seqlens_q, cu_seqlens_k, sums)
            found.append((packed, out, lse, torch.ops.compt_fast.cross_attention_backward(*arguments), sums))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_state_that_is_not_finite_spoils_no_other_row() -> None:
    queries, states = drawn(6, 8), drawn(9, 8, seed=1)
    states[3:6] = torch.nan
    cu_seqlens_q, cu_seqlens_k = cu_seqlens_of([2, 2, 2]), cu_seqlens_of([3, 3, 3])
    packed = torch.ops.compt_fast.pack_states(states, cu_seqlens_k)
    out, lse = torch.ops.compt_fast.cross_attention(queries, packed, cu_seqlens_q, cu_seqlens_k)
    grad_states = torch.zeros(9, 8)
    grad_queries = torch.ops.compt_fast.cross_attention_backward(
        drawn(6, 8, seed=2), queries, lse, packed, cu_seqlens_q, cu_seqlens_k, grad_states
    )
    sound = [True, True, False, False, True, True]
    assert out.isfinite().all(1).tolist() == grad_queries.isfinite().all(1).tolist() == sound
    assert grad_states.isfinite().all(1).tolist() == [True] * 3 + [False] * 3 + [True] * 3


def arguments() -> dict[str, Tensor]:
    cu_seqlens_q, cu_seqlens_k = cu_seqlens_of([2, 3]), cu_seqlens_of([4, 5])
    states = drawn(9, 6, seed=1)
    return {
        "grad_out": drawn(5, 6, seed=2),
        "queries": drawn(5, 6),
        "lse": torch.zeros(5),
        "packed": torch.ops.compt_fast.pack_states(states, cu_seqlens_k),
        "cu_seqlens_q": cu_seqlens_q,
        "cu_seqlens_k": cu_seqlens_k,
        "grad_states": torch.zeros(9, 6),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("queries", torch.zeros(5, 6, dtype=torch.float64)),
        ("queries", torch.zeros(5, 0)),
        ("queries", torch.zeros(6, 5).T),
        ("packed", torch.zeros(3, dtype=torch.int32)),
        ("packed", torch.zeros(96)),
        ("cu_seqlens_q", torch.tensor([0, 2])),
        ("cu_seqlens_q", torch.tensor([0, 3, 2])),
        ("cu_seqlens_q", torch.tensor([0, 2, 50])),
        ("cu_seqlens_q", torch.tensor([0, 2, 5], dtype=torch.int32)),
        ("cu_seqlens_k", torch.tensor([0, 0, 9])),
        ("cu_seqlens_k", torch.tensor([0, 4, 8])),
        ("cu_seqlens_k", torch.tensor([0, -4, 9])),
        ("grad_out", torch.zeros(5, 6, dtype=torch.bfloat16)),
        ("grad_out", torch.zeros(4, 6)),
        ("lse", torch.zeros(4)),
        ("lse", torch.zeros(5, dtype=torch.float64)),
        ("grad_states", torch.zeros(8, 6)),
        ("grad_states", torch.zeros(9, 6, dtype=torch.bfloat16)),
    ],
)
def test_arguments_that_do_not_fit_are_refused(name: str, value: Tensor) -> None:
    with pytest.raises(ValueError, match="compt_fast operator"):
        torch.ops.compt_fast.cross_attention_backward(**arguments() | {name: value})


def test_bad_states_are_refused() -> None:
    for states, cu_seqlens in (
        (torch.zeros(4, 3), torch.tensor([0, 5])),
        (torch.zeros(4, 3, dtype=torch.int64), torch.tensor([0, 4])),
        (torch.zeros(4, 3), torch.tensor([0.0, 4.0])),
        (torch.zeros(4), torch.tensor([0, 4])),
        (torch.zeros(4, 0), torch.tensor([0, 4])),
    ):
        with pytest.raises(ValueError, match="compt_fast operator"):
            torch.ops.compt_fast.pack_states(states, cu_seqlens)


def test_what_requires_a_gradient_is_refused() -> None:
    given = arguments()
    given["queries"].requires_grad_()
    with pytest.raises(ValueError, match="queries must not require a gradient"):
        torch.ops.compt_fast.cross_attention_backward(**given)


def test_opcheck() -> None:
    given = arguments()
    tests = ("test_schema", "test_faketensor")
    inputs = tuple(given[name] for name in ("queries", "packed", "cu_seqlens_q", "cu_seqlens_k"))
    opcheck(torch.ops.compt_fast.cross_attention.default, inputs, test_utils=tests)
    opcheck(torch.ops.compt_fast.cross_attention_backward.default, tuple(given.values()), test_utils=tests)
