"""What stands between the matrix products, compiled and in plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from compt_fast import native
from compt_fast.ops.norm_activation import gated_gelu, gated_gelu_backward, rms_norm, rms_norm_backward_


@pytest.fixture(autouse=True, params=["as it is here", "without the extension"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without the extension":
        monkeypatch.setattr(native, "load", lambda: False)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_and_its_gradient(dtype: torch.dtype) -> None:
    x = (normal(5, 24) * torch.tensor([1e-4, 1.0, 30.0, 1e4, 0.0])[:, None]).to(dtype)
    wide = x.double().requires_grad_()
    wanted = wide * torch.rsqrt(wide.square().mean(1, keepdim=True) + 1e-6)
    y, r = rms_norm(x, 1e-6)
    precision = torch.finfo(dtype).eps
    assert y.dtype == dtype and r.dtype == torch.float32 and r.shape == (5, 1)
    torch.testing.assert_close(y.double(), wanted.detach(), rtol=precision, atol=1e-7)
    grad_y, before = normal(5, 24, seed=1).to(dtype), normal(5, 24, seed=2).to(dtype)
    (through,) = torch.autograd.grad(wanted, wide, grad_y.double())
    grad = before.clone()
    rms_norm_backward_(grad_y, y, r, grad)
    scale = r.double() * 3  # the normed values, which the gradient is made of, carry rounding
    assert ((grad.double() - before.double() - through).abs() <= precision * (scale + before.abs())).all()


def test_the_gated_gelu_and_its_gradient() -> None:
    inner = normal(6, 10).requires_grad_()
    u, v = inner.chunk(2, 1)
    wanted = F.gelu(u, approximate="tanh") * v
    grad = normal(6, 5, seed=1)
    torch.testing.assert_close(gated_gelu(inner.detach()), wanted.detach())
    (inner_grad,) = torch.autograd.grad(wanted, inner, grad)
    torch.testing.assert_close(gated_gelu_backward(grad, inner.detach()), inner_grad)
