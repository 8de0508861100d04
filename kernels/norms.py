"""Triton kernels of T5's root mean square norm, forward and backward: each number is read once and written once.

A program takes a few tokens with all their numbers; sums are in fp32, and what is stored is rounded once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launching import launch

NUMBERS = 4096  # a program's, about: as many loads under way as hide the memory's latency


def rms_norm(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`y = x r` with `r = 1 / sqrt(mean(x^2) + eps)`: y (n, d) in x's dtype, r (n, 1) fp32.

    x (n, d) fp32 or bf16, contiguous.
    """
    y = torch.empty_like(x)
    r = torch.empty((len(x), 1), dtype=torch.float32, device=x.device)
    _start(_norm, x, {"x": x, "y": y, "r": r, "eps": eps})
    return y, r


def rms_norm_backward_(grad_y: Tensor, y: Tensor, r: Tensor, grad: Tensor) -> None:
    """Add to `grad` (n, d) what reaches x through the norm: `r (g - y mean(g y))`.

    All (n, d) of one dtype and contiguous, r as `rms_norm` gives it.
    """
    _start(_norm_backward, grad, {"grad_y": grad_y, "y": y, "r": r, "grad": grad})


def _start(kernel: Any, like: Tensor, values: dict[str, Any]) -> None:
    tokens, width = like.shape
    padded = triton.next_power_of_2(width)
    rows = max(1, NUMBERS // padded)
    sizes = {"tokens": tokens, "WIDTH": width, "PADDED": padded, "ROWS": rows}
    launch(kernel, triton.cdiv(tokens, rows), values | sizes)


@triton.jit
def _places(tokens, WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """A program's tokens, their numbers' places (ROWS, PADDED), and which of both there are."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, PADDED)
    inside = (rows[:, None] < tokens) & (columns[None, :] < WIDTH)
    return rows, rows.to(tl.int64)[:, None] * WIDTH + columns[None, :], rows < tokens, inside


@triton.jit
def _norm(  # type: ignore[no-untyped-def]
    x, y, r, eps, tokens, WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr
):
    rows, at, there, inside = _places(tokens, WIDTH, PADDED, ROWS)
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    factor = 1.0 / tl.sqrt_rn(tl.sum(values * values, 1) / WIDTH + eps)
    tl.store(r + rows, factor, mask=there)
    tl.store(y + at, (values * factor[:, None]).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _norm_backward(  # type: ignore[no-untyped-def]
    grad_y, y, r, grad, tokens, WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr
):
    rows, at, there, inside = _places(tokens, WIDTH, PADDED, ROWS)
    g = tl.load(grad_y + at, mask=inside, other=0.0).to(tl.float32)
    normed = tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
    total = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(r + rows, mask=there, other=0.0)
    mean = tl.sum(g * normed, 1) / WIDTH
    total += factor[:, None] * (g - normed * mean[:, None])
    tl.store(grad + at, total.to(grad.dtype.element_ty), mask=inside)
