"""Attention of packed rows, compiled, against one row and head at a time in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from compt_fast import native
from tests.helpers import large_scores
from tests.helpers.assembly import cu_seqlens_of

MASKED = -1e30
Attend = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    assert native.load(), native.status().why


@pytest.fixture
def attend() -> Attend:
    return torch.ops.compt_fast.packed_attention


def made(
    lengths: Sequence[int], heads: int, width: int, dtype: torch.dtype, spare: int = 0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Projection, `cu_seqlens` and bias; the bias reaches `spare` beyond the longest row."""
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(sum(lengths), 3, heads, width, generator=generator)
    qkv[:, 0] *= width**-0.5
    reach = max([*lengths, 1]) + spare
    return qkv.to(dtype), cu_seqlens_of(lengths), torch.randn(heads, 2 * reach - 1, generator=generator)


def exact(qkv: Tensor, cu_seqlens: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The result in float64, differentiable."""
    reach = bias.shape[1] // 2
    out = torch.zeros(len(qkv), *qkv.shape[2:], dtype=torch.float64)
    lse = torch.zeros(len(qkv), qkv.shape[2], dtype=torch.float64)
    ends = cu_seqlens.tolist()
    for start, end in zip(ends, ends[1:], strict=False):
        for head in range(qkv.shape[2]):
            q, k, v = qkv[start:end, :, head].double().unbind(1)
            places = torch.arange(end - start)
            scores = q @ k.T + bias[head].double()[reach + places[None, :] - places[:, None]]
            out[start:end, head] = scores.softmax(1) @ v
            lse[start:end, head] = scores.logsumexp(1)
    return out, lse


def error(mine: Tensor, right: Tensor) -> float:
    """The largest error, relative to the largest value."""
    mine, right = mine.detach().double(), right.detach().double()
    return float((mine - right).abs().max() / right.abs().max().clamp(min=1e-12))


SHAPES = [
    ((7,), 1, 64),
    ((1, 1, 2, 3), 2, 32),
    ((57, 3, 130, 64, 65, 128), 2, 64),
    ((0, 31, 0, 97), 3, 16),
    ((260,), 2, 64),
    ((33, 16, 15), 2, 7),
    ((70, 1), 1, 100),
    ((12,) * 20, 6, 32),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("lengths", "heads", "width"), SHAPES)
def test_forward_and_backward(
    attend: Attend, lengths: tuple[int, ...], heads: int, width: int, dtype: torch.dtype
) -> None:
    qkv, cu_seqlens, bias = made(lengths, heads, width, dtype, spare=len(lengths))
    leaf, exact_leaf = qkv.clone().requires_grad_(), qkv.double().requires_grad_()
    out, lse = attend(leaf, cu_seqlens, bias)
    right, right_lse = exact(exact_leaf, cu_seqlens, bias)
    assert out.dtype == dtype and lse.dtype == torch.float32
    # bf16 keeps 8 bits: the result is rounded once, the softmax's weights and their gradients once.
    bound = 2e-6 if dtype == torch.float32 else 2**-7
    assert error(out, right) < bound
    assert error(lse, right_lse) < 2e-6
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    (got,) = torch.autograd.grad(out, leaf, grad)
    (right_grad,) = torch.autograd.grad(right, exact_leaf, grad.double())
    for part in range(3):
        assert error(got[:, part], right_grad[:, part]) < 2 * bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bias_that_hides_what_is_behind_makes_it_causal(attend: Attend, dtype: torch.dtype) -> None:
    qkv, cu_seqlens, bias = made((5, 90, 1), 2, 32, dtype)
    bias[:, 90:] = MASKED
    out, lse = attend(qkv, cu_seqlens, bias)
    right, right_lse = exact(qkv, cu_seqlens, bias)
    assert error(out, right) < (2e-6 if dtype == torch.float32 else 2**-7)
    assert error(lse, right_lse) < 2e-6
    torch.testing.assert_close(out[0].double(), qkv[0, 2].double(), rtol=2**-8, atol=1e-6)


def test_large_scores_neither_overflow_nor_drown() -> None:
    qkv, cu_seqlens, bias = made((40,), 1, 32, torch.float32)
    qkv[:, 0] *= 300
    leaf = qkv.requires_grad_()
    out, lse = torch.ops.compt_fast.packed_attention(leaf, cu_seqlens, bias)
    right, right_lse = exact(qkv, cu_seqlens, bias)
    assert error(out, right) < 1e-4 and error(lse, right_lse) < 1e-6
    out.sum().backward()
    assert leaf.grad is not None and leaf.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("score", [0, 100, 200])
@pytest.mark.parametrize(("tokens", "width"), [(90, 64), (300, 32), (17, 100)])
def test_large_scores_round_as_in_torch(
    attend: Attend, tokens: int, width: int, score: float, dtype: torch.dtype
) -> None:
    qkv, bias, grad = large_scores.self_attention(tokens, 3, width, score)
    qkv, grad = qkv.to(dtype).requires_grad_(), grad.to(dtype)
    out, _ = attend(qkv, cu_seqlens_of([tokens]), bias)
    (qkv_grad,) = torch.autograd.grad(out, qkv, grad)
    found = out.detach(), qkv_grad

    def formula(qkv: Tensor) -> Tensor:
        return large_scores.attended(qkv, bias)

    assert max(large_scores.errors(formula, (qkv.detach(),), grad, found)) < large_scores.AT_MOST


def test_not_a_number_stays_in_its_row_and_head() -> None:
    qkv, cu_seqlens, bias = made((20, 30), 2, 16, torch.bfloat16)
    qkv[25, 1, 1, 3] = torch.nan
    out, lse = torch.ops.compt_fast.packed_attention(qkv, cu_seqlens, bias)
    assert out[20:, 1].isnan().all()
    assert out[:20].isfinite().all() and out[:, 0].isfinite().all()
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    grad_qkv = torch.ops.compt_fast.packed_attention_backward(grad, qkv, lse, cu_seqlens, bias)
    assert grad_qkv[20:, :, 1].isnan().all()
    assert grad_qkv[:20].isfinite().all() and grad_qkv[:, :, 0].isfinite().all()


def test_a_gradient_that_is_not_a_number_stays_in_its_row_and_head() -> None:
    qkv, cu_seqlens, bias = made((20, 30), 2, 16, torch.bfloat16)
    out, lse = torch.ops.compt_fast.packed_attention(qkv, cu_seqlens, bias)
    grad = torch.ones_like(out)
    grad[25, 1, 3] = torch.nan
    grad_qkv = torch.ops.compt_fast.packed_attention_backward(grad, qkv, lse, cu_seqlens, bias)
    assert grad_qkv[20:, 1, 1].isnan().all() and grad_qkv[25, 0, 1].isnan().all()
    assert grad_qkv[:20].isfinite().all() and grad_qkv[:, :, 0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_on_any_number_of_threads_and_beside_any_neighbour(dtype: torch.dtype) -> None:
    qkv, cu_seqlens, bias = made((64, 130, 7, 81), 4, 32, dtype)
    grad = torch.randn(len(qkv), 4, 32).to(dtype)

    def run(qkv: Tensor, cu_seqlens: Tensor, grad: Tensor) -> list[Tensor]:
        ops = torch.ops.compt_fast
        out, lse = ops.packed_attention(qkv, cu_seqlens, bias)
        return [out, lse, ops.packed_attention_backward(grad, qkv, lse, cu_seqlens, bias)]

    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        try:
            results.append(run(qkv, cu_seqlens, grad))
        finally:
            torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    alone = run(qkv[64:194].clone(), torch.tensor([0, 130]), grad[64:194].clone())
    assert all(torch.equal(a[64:194], b) for a, b in zip(results[0], alone, strict=True))


def test_every_element_is_written() -> None:
    qkv, cu_seqlens, bias = made((65, 2, 17), 2, 10, torch.bfloat16)
    torch.use_deterministic_algorithms(True)  # new memory is then filled with NaN
    try:
        leaf = qkv.requires_grad_()
        out, lse = torch.ops.compt_fast.packed_attention(leaf, cu_seqlens, bias)
        out.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert leaf.grad is not None
    assert out.isfinite().all() and lse.isfinite().all() and leaf.grad.isfinite().all()


def test_nothing_in_it(attend: Attend) -> None:
    for lengths in ((), (0, 0)):
        qkv, cu_seqlens, bias = made(lengths, 2, 8, torch.float32)
        out, lse = attend(qkv, cu_seqlens, bias)
        assert out.shape == (0, 2, 8) and lse.shape == (0, 2)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own forward mode scripts
def test_no_gradient_gets_lost() -> None:
    qkv, cu_seqlens, bias = made((4, 5), 2, 8, torch.float32)
    leaf = qkv.requires_grad_()
    out, lse = torch.ops.compt_fast.packed_attention(leaf, cu_seqlens, bias)
    assert out.requires_grad and not lse.requires_grad
    (grad,) = torch.autograd.grad(out.sum(), leaf, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        grad.sum().backward()
    with pytest.raises(NotImplementedError, match="forward-mode"):
        torch.func.jvp(lambda x: torch.ops.compt_fast.packed_attention(x, cu_seqlens, bias)[0], (qkv,), (qkv,))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype: torch.dtype) -> None:
    qkv, cu_seqlens, bias = made((4, 9), 2, 8, dtype)
    ops = torch.ops.compt_fast
    out, lse = ops.packed_attention(qkv, cu_seqlens, bias)
    opcheck(ops.packed_attention_backward.default, (out, qkv, lse, cu_seqlens, bias))
    opcheck(ops.packed_attention.default, (qkv.requires_grad_(), cu_seqlens, bias), rtol=1e-2, atol=1e-2)
