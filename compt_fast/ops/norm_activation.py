"""Norm and activation, what stands between the matrix products: all is computed in fp32 and rounded once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.ops.paths import COMPILED, TRITON, kernels, path

FAMILY = "norm_activation"


def rms_norm(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """T5's root mean square norm without its weight, which is folded into the matrix behind it:
    `y = x r` with `r = 1 / sqrt(mean(x^2) + eps)`, y (n, d) in x's dtype, r (n, 1) fp32.
    """
    how = path(FAMILY, x)
    if how == COMPILED:
        return torch.ops.compt_fast.rms_norm(x, eps)
    if how == TRITON:
        normed: tuple[Tensor, Tensor] = kernels(FAMILY).rms_norm(x, eps)
        return normed
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
    r = torch.rsqrt(length.square_().div_(x.shape[1]).add_(eps))
    return (x * r).to(x.dtype), r


def rms_norm_backward_(grad_y: Tensor, y: Tensor, r: Tensor, grad: Tensor) -> None:
    """Add to `grad` (n, d) what reaches x through the norm: `r (g - y mean(g y))`; all of one dtype."""
    how = path(FAMILY, grad)
    if how == COMPILED:
        torch.ops.compt_fast.rms_norm_backward(grad_y, y, r, grad)
        return
    if how == TRITON:
        kernels(FAMILY).rms_norm_backward_(grad_y, y, r, grad)
        return
    g, wide = grad_y.float(), y.float()
    mean = (g * wide).mean(1, keepdim=True)
    grad.add_(torch.addcmul(g, wide, mean, value=-1).mul_(r))


def gated_gelu(inner: Tensor) -> Tensor:
    """`gelu(u) v` of inner (n, 2f), u before v, with T5 v1.1's tanh form of the gelu: (n, f)."""
    if path(FAMILY, inner) == COMPILED:
        return torch.ops.compt_fast.gated_gelu(inner)
    u, v = inner.float().chunk(2, 1)
    return F.gelu(u, approximate="tanh").mul_(v).to(inner.dtype)


def gated_gelu_backward(grad: Tensor, inner: Tensor) -> Tensor:
    """The gradient of inner (n, 2f) from that of `gated_gelu`'s result (n, f)."""
    if path(FAMILY, inner) == COMPILED:
        return torch.ops.compt_fast.gated_gelu_backward(grad, inner)
    g, (u, v) = grad.float(), inner.float().chunk(2, 1)
    u_grad = torch.ops.aten.gelu_backward.default(g * v, u, approximate="tanh")
    return torch.cat([u_grad, g.mul_(F.gelu(u, approximate="tanh"))], 1).to(inner.dtype)
