"""Attention's inputs with scores as large as trained prompts make them, and what torch's own rounding does to them.

Trained soft prompts are long vectors: keys, values and gradients share a large common part, scores lie between 100 and
200, and what a softmax's gradient is made of is a small difference of large numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

AT_MOST = 2.0
"""What an error may be, in torch's own of the same precision."""
ON_A_GPU = 4.0
"""The same in fp32 by Triton on a GPU, whose exp2 is right to two units in the last place and torch's exp to one."""


def common(rows: int, like: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """(rows, *like.shape): ten times `like` with `noise` around it."""
    return 10 * like + noise * torch.randn(rows, *like.shape, generator=generator)


def directions(*shape: int, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(shape, generator=generator)
    return drawn / drawn.norm(dim=-1, keepdim=True)


def self_attention(tokens: int, heads: int, width: int, score: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """The projection (N, 3, H, c) of one row, its bias (H, 2N - 1), and a gradient (N, H, c) of the result."""
    generator = torch.Generator().manual_seed(seed)
    shared = directions(heads, width, generator=generator)
    q = score / 10 * shared + 4 * width**-0.5 * torch.randn(tokens, heads, width, generator=generator)
    k, v = (common(tokens, shared, 0.5, generator) for _ in range(2))
    bias = torch.randn(heads, 2 * tokens - 1, generator=generator)
    return torch.stack([q, k, v], 1), bias, torch.randn(tokens, heads, width, generator=generator)


def cross_attention(
    queries: int, states: int, width: int, score: float, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (M, d) of one row, its states (N, d), and a gradient (M, d) of the result."""
    generator = torch.Generator().manual_seed(seed)
    shared = directions(width, generator=generator)
    q = score / 10 * shared + 7 * width**-0.5 * torch.randn(queries, width, generator=generator)
    return q, common(states, shared, 0.3, generator), torch.randn(queries, width, generator=generator)


def attended(qkv: Tensor, bias: Tensor) -> Tensor:
    """Self-attention of one row (N, 3, H, c) by its formula, in its dtype: (N, H, c)."""
    q, k, v = qkv.permute(1, 2, 0, 3)
    at = torch.arange(len(qkv), device=qkv.device)
    scores = q @ k.mT + bias.to(qkv.dtype)[:, len(qkv) - 1 + at[None, :] - at[:, None]]
    return (scores.softmax(-1) @ v).transpose(0, 1)


def read(queries: Tensor, states: Tensor) -> Tensor:
    """Cross-attention of one row by its formula: the states are keys and values."""
    return (queries @ states.T).softmax(1) @ states


def errors(
    formula: Callable[..., Tensor], leaves: Sequence[Tensor], grad: Tensor, found: Sequence[Tensor]
) -> list[float]:
    """How far `found`, the formula's result and the leaves' gradients, is from float64, each in torch's own error."""
    exact, theirs = (_results(formula, leaves, grad, dtype) for dtype in (torch.float64, grad.dtype))
    return [
        float((own.double() - right).norm() / (other.double() - right).norm())
        for own, other, right in zip(found, theirs, exact, strict=True)
    ]


def _results(
    formula: Callable[..., Tensor], leaves: Sequence[Tensor], grad: Tensor, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    own = [leaf.to(dtype).requires_grad_() for leaf in leaves]
    out = formula(*own)
    return out.detach(), *torch.autograd.grad(out, own, grad.to(dtype))
