"""The Triton norm against its formula in float64."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from compt_fast.kernels import norms
from tests.helpers.compositions import DEVICE

EPS = 1e-6
DTYPES = [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
@pytest.mark.parametrize(("tokens", "width"), [(1, 8), (9, 768), (70, 60), (3, 5000)])
def test_the_norm_and_its_gradient(tokens: int, width: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, grad_y, before = (torch.randn(tokens, width, generator=generator).to(DEVICE, dtype) for _ in range(3))
    x *= 30
    leaf = x.double().requires_grad_()
    wanted = leaf / (leaf.square().mean(1, keepdim=True) + EPS).sqrt()
    wanted.backward(grad_y.double())
    assert leaf.grad is not None
    y, r = norms.rms_norm(x, EPS)
    grad = before.clone()
    norms.rms_norm_backward_(grad_y, y, r, grad)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(y.double(), wanted.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(r.double(), (x.double().square().mean(1, keepdim=True) + EPS).rsqrt(), rtol=1e-6, atol=0)
    torch.testing.assert_close(grad.double(), before.double() + leaf.grad, rtol=tolerance, atol=tolerance)
    assert y.dtype == grad.dtype == dtype and r.dtype == torch.float32


def test_a_token_that_is_not_finite_spoils_no_other() -> None:
    x = torch.randn(6, 20, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    x[2] = torch.nan
    y, _ = norms.rms_norm(x, EPS)
    assert y.isfinite().all(1).tolist() == [True, True, False, True, True, True]
