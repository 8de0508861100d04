"""What a run's prompts are computed with, so that on a CPU they are the same bits in every cohort.

Rounding grows over a training; where one operation of torch rounds a number by what stands beside it,
it is asked in a way that does not.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding


def batched(a: Tensor, b: Tensor, added: Tensor | None = None) -> Tensor:
    """`a @ b + added` of K matrices: a (K, i, j), b (K, j, k), added (K, 1 or i, k) -> (K, i, k).

    torch sums a batch of one in another order than the same product among others: so one alone is
    computed beside a copy of itself.
    """
    count = len(a)
    if count == 1:
        a, b = a.expand(2, -1, -1), b.expand(2, -1, -1)
        added = None if added is None else added.expand(2, -1, -1)
    product = torch.bmm(a, b) if added is None else torch.baddbmm(added, a, b)
    return product[:count]


def sigmoid(x: Tensor) -> Tensor:
    """The logistic function of few numbers, in x's dtype.

    torch computes those that fill no vector by another exponential; in fp64 the two agree to fp32's
    last bit.
    """
    return torch.sigmoid(x.double()).to(x.dtype)


def chosen(part: Tensor, index: Tensor) -> Tensor:
    """part[index] of a part (K, ...) for index (B,) int64: (B, ...).

    Its gradient sums those of the rows in their order, on every device and by any number of threads; that of an index
    does so only where it is small.
    """
    return embedding(index, part.flatten(1)).unflatten(1, part.shape[1:])


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """K linear layers: x (K, ..., i) with weight (K, o, i) and bias (K, o) -> (K, ..., o)."""
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    out = batched(flat, weight.transpose(1, 2), bias.unsqueeze(1))
    return out.reshape(*x.shape[:-1], -1)
