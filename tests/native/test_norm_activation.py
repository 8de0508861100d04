"""The norm and the gated gelu, compiled, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.library import opcheck
from torch.nn import functional as F

from compt_fast import native

TYPES = [torch.float32, torch.bfloat16]
SIZES = [(1, 1), (3, 7), (50, 64), (201, 768), (0, 8)]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    assert native.load(), native.status().why


def drawn(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(mine: Tensor, right: Tensor, ulps: float = 1) -> None:
    """Within rounding to mine's dtype, and a few of fp32's own roundings."""
    rtol = 2**-8 if mine.dtype == torch.bfloat16 else ulps * 1e-6
    torch.testing.assert_close(mine.double(), right, rtol=rtol, atol=1e-5)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", SIZES)
def test_norm(size: tuple[int, int], dtype: torch.dtype) -> None:
    x = drawn(*size, dtype=dtype) * 3
    y, r = torch.ops.compt_fast.rms_norm(x, 1e-6)
    right_r = torch.rsqrt(x.double().square().mean(1, keepdim=True) + 1e-6)
    assert y.dtype == dtype and r.shape == (size[0], 1)
    close(r, right_r)
    close(y, x.double() * right_r)


@pytest.mark.parametrize("grad_type", TYPES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", SIZES)
def test_norm_backward(size: tuple[int, int], dtype: torch.dtype, grad_type: torch.dtype) -> None:
    x = drawn(*size, dtype=dtype)
    y, r = torch.ops.compt_fast.rms_norm(x, 1e-6)
    grad_y, before = drawn(*size, dtype=dtype, seed=1), drawn(*size, dtype=grad_type, seed=2)
    g, wide = grad_y.double(), y.double()
    right = before.double() + r.double() * (g - wide * (g * wide).mean(1, keepdim=True))
    grad = before.clone()
    assert torch.ops.compt_fast.rms_norm_backward(grad_y, y, r, grad) is None
    close(grad, right)


def test_norm_backward_is_the_derivative_of_the_norm() -> None:
    x = drawn(20, 48, dtype=torch.float32)
    y, r = torch.ops.compt_fast.rms_norm(x, 1e-6)
    leaf = x.double().requires_grad_()
    normed = leaf * torch.rsqrt(leaf.square().mean(1, keepdim=True) + 1e-6)
    (right,) = torch.autograd.grad(normed, leaf, torch.cos(x.double()))
    grad = torch.zeros_like(x)
    torch.ops.compt_fast.rms_norm_backward(torch.cos(x), y, r, grad)
    close(grad, right)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", SIZES)
def test_gated_gelu(size: tuple[int, int], dtype: torch.dtype) -> None:
    uv = drawn(size[0], 2 * size[1], dtype=dtype) * 4
    leaf = uv.double().requires_grad_()
    u, v = leaf.chunk(2, 1)
    right = F.gelu(u, approximate="tanh") * v
    # The exponential's argument, up to 30 in size here, is rounded to fp32 before it is exponentiated.
    close(torch.ops.compt_fast.gated_gelu(uv), right.detach(), ulps=4)
    grad = drawn(*size, dtype=dtype, seed=1)
    (right_grad,) = torch.autograd.grad(right, leaf, grad.double())
    close(torch.ops.compt_fast.gated_gelu_backward(grad, uv), right_grad, ulps=4)


def test_gelu_far_out() -> None:
    u = torch.tensor([-1e4, -100.0, -30.0, 0.0, 30.0, 100.0, 1e4])
    uv = torch.stack([u, torch.ones_like(u)], 1)
    got = torch.ops.compt_fast.gated_gelu(uv)[:, 0]
    torch.testing.assert_close(got, u.clamp(min=0))
    slopes = torch.ops.compt_fast.gated_gelu_backward(torch.ones(7, 1), uv)[:, 0]
    torch.testing.assert_close(slopes, torch.tensor([0, 0, 0, 0.5, 1, 1, 1]))


def test_what_requires_a_gradient_is_refused_and_writing_is_noticed() -> None:
    x = drawn(3, 4, dtype=torch.float32)
    y, r = torch.ops.compt_fast.rms_norm(x, 1e-6)
    leaf = x.clone().requires_grad_()
    with pytest.raises(ValueError, match="x must not require a gradient: this operator is the inside"):
        torch.ops.compt_fast.rms_norm(leaf, 1e-6)
    with pytest.raises(ValueError, match="uv must not require a gradient"):
        torch.ops.compt_fast.gated_gelu(leaf)
    grad = x.clone()
    kept = (leaf * grad).sum()
    torch.ops.compt_fast.rms_norm_backward(x, y, r, grad)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad": torch.zeros(3, 5)}, "grad must have 4 columns, got 5"),
        ({"r": torch.zeros(3)}, "r must be a dense tensor of 2 dimensions"),
        ({"r": torch.zeros(3, 1).bfloat16()}, "r must be float32"),
        ({"grad_y": torch.zeros(3, 4).bfloat16()}, "grad_y must be Float, as y is, got BFloat16"),
        ({"y": torch.zeros(4, 3).T}, "y must be contiguous"),
    ],
)
def test_the_argument_at_fault_is_named(change: dict[str, Tensor], message: str) -> None:
    good = {"grad_y": torch.zeros(3, 4), "y": torch.zeros(3, 4), "r": torch.zeros(3, 1), "grad": torch.zeros(3, 4)}
    with pytest.raises(ValueError, match=message):
        torch.ops.compt_fast.rms_norm_backward(**good | change)
    with pytest.raises(ValueError, match="uv must have an even number of columns, got 3"):
        torch.ops.compt_fast.gated_gelu(torch.zeros(2, 3))


@pytest.mark.slow
def test_opcheck() -> None:
    ops = torch.ops.compt_fast
    x = drawn(3, 4, dtype=torch.float32)
    y, r = ops.rms_norm(x, 1e-6)
    opcheck(ops.rms_norm.default, (x, 1e-6))
    opcheck(ops.rms_norm_backward.default, (x, y, r, x.clone()))
    opcheck(ops.gated_gelu.default, (x,))
    opcheck(ops.gated_gelu_backward.default, (ops.gated_gelu(x), x))
