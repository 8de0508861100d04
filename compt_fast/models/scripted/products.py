"""Products, norm and activation for TorchScript: the formulas of `compt_fast.ops`.

`how.host`: the tensors lie on the CPU, where the extension computes all but products; `how.quick`: these too. Both are
found when the model is called, so that a file serves whatever machine and device it is loaded on.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.ops.linear import FEW


class How(NamedTuple):
    """What computes: see the head of this file."""

    host: bool
    quick: bool


def how_for(x: Tensor) -> How:
    """What computes on tensors like `x`."""
    host = x.device.type == "cpu"
    return How(host, host and torch.ops.compt_fast.has_products(x.dtype))


def linear(x: Tensor, weight: Tensor, how: How, relu: bool = False) -> Tensor:
    """`x W^T`, (n, in) -> (n, out), and of that, with `relu`, what is above 0."""
    if how.quick:
        return torch.ops.compt_fast.product(x, weight, False, relu)
    y = F.linear(x, weight)
    return y.relu_() if relu else y


def linear_add_(x: Tensor, weight: Tensor, total: Tensor, how: How) -> None:
    """`total += x W^T`, (n, in) to (n, out)."""
    if how.quick:
        torch.ops.compt_fast.product_add(x, weight, total)
    else:
        total += F.linear(x, weight)


def by_head(x: Tensor, matrices: Tensor, transposed: bool, how: How, few: int = FEW) -> Tensor:
    """Each token's products with the heads' matrices W (H, c, d): `W x`, (M, H, d) -> (M, H, c), or `transposed`
    `W^T x`; `compt_fast.ops.linear` says why a few are filled up.
    """
    if how.quick:
        return torch.ops.compt_fast.grouped_product(x.contiguous(), matrices, transposed)
    wide = F.pad(x, [0, 0, 0, 0, 0, max(0, few - len(x))]) if how.host and len(x) < few else x
    other = matrices if transposed else matrices.transpose(1, 2)
    return (wide.transpose(0, 1) @ other).transpose(0, 1)[: len(x)]


def rms_norm(x: Tensor, eps: float, how: How) -> Tensor:
    """`x / sqrt(mean(x^2) + eps)`, (n, d) in x's dtype."""
    if how.host:
        return torch.ops.compt_fast.rms_norm(x, eps)[0]
    length = torch.linalg.vector_norm(x, dim=[1], keepdim=True, dtype=torch.float32)
    return (x * torch.rsqrt(length.square().div(x.shape[1]).add(eps))).to(x.dtype)


def gated_gelu(inner: Tensor, how: How) -> Tensor:
    """`gelu(u) v` of inner (n, 2f), u before v: (n, f)."""
    if how.host:
        return torch.ops.compt_fast.gated_gelu(inner)
    u, v = inner.float().chunk(2, 1)
    return (F.gelu(u, approximate="tanh") * v).to(inner.dtype)
