"""Products with a frozen matrix: it lies in memory once, and serves forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.ops.paths import COMPILED, path

FEW = 8  # tokens


class FrozenLinear:
    """A matrix W (out, in), contiguous, that takes no gradient.

    Where the extension multiplies as fast as the processor can, it does so for forward and backward from the one W,
    and finishes the sums, in fp32, with what follows; elsewhere torch does.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.contiguous()
        self._no_bias: Tensor | None = None  # zeros, where they are asked for

    @property
    def tensors(self) -> list[Tensor]:
        """All that was frozen."""
        return [self.weight]

    def __call__(self, x: Tensor, relu: bool = False) -> Tensor:
        """`x W^T`, (n, in) -> (n, out), and of that, with `relu`, what is above 0."""
        if has_compiled_products(x):
            return torch.ops.compt_fast.product(x, self.weight, False, relu)
        if relu and x.is_cuda:  # within the product, which is to be had so with a bias alone
            if self._no_bias is None:
                self._no_bias = x.new_zeros(len(self.weight))
            return torch._addmm_activation(self._no_bias, x, self.weight.t())
        y = F.linear(x, self.weight)
        return y.relu_() if relu else y

    def add_(self, x: Tensor, total: Tensor) -> None:
        """`total += x W^T`, (n, in) to (n, out)."""
        if has_compiled_products(x):
            torch.ops.compt_fast.product_add(x, self.weight, total)
        elif total.is_cuda:
            total.addmm_(x, self.weight.t())  # one launch, and one rounding
        else:
            total += F.linear(x, self.weight)

    def backward(self, grad: Tensor, activated: Tensor | None = None) -> Tensor:
        """`grad W`, (n, out) -> (n, in); with `activated` (n, in), what a relu gave, only where that is above 0."""
        if not has_compiled_products(grad):
            y = grad @ self.weight
            return y if activated is None else torch.ops.aten.threshold_backward.default(y, activated, 0)
        if activated is None:
            return torch.ops.compt_fast.product(grad, self.weight, True)
        return torch.ops.compt_fast.product_where(grad, self.weight, activated)


def has_compiled_products(x: Tensor) -> bool:
    """Whether the extension multiplies `x` with frozen matrices: then a row's result does not depend on the others."""
    return path("linear", x) == COMPILED


def product_by_head(x: Tensor, matrices: Tensor, *, transposed: bool = False) -> Tensor:
    """Each token's products with the heads' matrices W (H, c, d): `W x`, (M, H, d) -> (M, H, c), or `transposed`
    `W^T x`.

    What a row gives must not depend on how many there are. A batched product of torch's does not promise that: fewer
    than four rows it multiplies in another order, so that a few are filled up, and on some processors any number.
    """
    if has_compiled_products(x):
        return torch.ops.compt_fast.grouped_product(x.contiguous(), matrices, transposed)
    factors = matrices if transposed else matrices.transpose(1, 2)
    if x.is_cuda:  # its products are written where they are to stand, and the heads' need not be moved
        out = x.new_empty(len(x), len(matrices), factors.shape[2])
        torch.bmm(x.transpose(0, 1), factors, out=out.transpose(0, 1))
        return out
    few = max(0, FEW - len(x))
    wide = F.pad(x, (0, 0, 0, 0, 0, few)) if few else x
    return (wide.transpose(0, 1) @ factors).transpose(0, 1)[: len(x)]
