"""A frozen matrix, in the layout in which products with it are quickest."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 1024  # for which oneDNN chooses its layout; the same one serves a single row and thousands


class Frozen:
    """A matrix W (out, in) that takes no gradient.

    On a CPU oneDNN packs it once, instead of at each product: for the product with W^T at once, for
    the backward's, with W, when that is first asked for. Elsewhere it stays as it is.
    """

    def __init__(self, weight: Tensor) -> None:
        self._forward = _packed(weight)
        self._backward: Tensor | None = None

    def __call__(self, x: Tensor, relu: bool = False) -> Tensor:
        """`x W^T`, (n, in) -> (n, out), and of that, with `relu`, what is above 0."""
        if self._forward.is_mkldnn:
            return _product(x, self._forward, "relu" if relu else "none")
        y = F.linear(x, self._forward)
        return y.relu_() if relu else y

    def back(self, grad: Tensor) -> Tensor:
        """`grad W`, (n, out) -> (n, in)."""
        if not self._forward.is_mkldnn:
            return grad @ self._forward
        if self._backward is None:
            self._backward = _packed(self.dense().T.contiguous())
        return _product(grad, self._backward, "none")

    def dense(self) -> Tensor:
        """W itself: a copy of it, where it is packed."""
        return self._forward.to_dense() if self._forward.is_mkldnn else self._forward


def _packed(weight: Tensor) -> Tensor:
    """`weight` in oneDNN's layout, or as it is where oneDNN has none for it."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return weight
    if weight.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return weight
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    return packed


def _product(x: Tensor, packed: Tensor, after: str) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, None, after, [], "")
    return y
