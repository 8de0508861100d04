"""T5's root mean square norm without its weight, which is folded into the matrix behind it."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`y = x r` with `r = 1 / sqrt(mean(x^2) + eps)`: y (N, d) in x's dtype, r (N, 1) fp32.

    Computed in fp32 and rounded once.
    """
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
    r = torch.rsqrt(length.square_().div_(x.shape[1]).add_(eps))
    return (x * r).to(x.dtype), r


def rms_norm_backward_(grad_y: Tensor, y: Tensor, r: Tensor, grad: Tensor) -> None:
    """Add to `grad` (N, d) what reaches x through the norm: `r (g - y mean(g y))`, in fp32 inside."""
    g, wide = grad_y.float(), y.float()
    mean = (g * wide).mean(1, keepdim=True)
    grad.add_(torch.addcmul(g, wide, mean, value=-1).mul_(r))
