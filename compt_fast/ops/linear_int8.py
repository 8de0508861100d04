"""Products with a frozen matrix in int8, of tokens in int8 or int16, for inference: a step a row of both."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from compt_fast.ops.linear import FrozenLinear
from compt_fast.ops.paths import COMPILED, path

FAMILY = "linear_int8"
STEPS = 127  # on either side of 0: -128 is not used, so that a row and its negative are rounded alike
LEAST = 1e-30  # of a row's largest entry, so that nothing is divided by 0


def quantise(x: Tensor, limit: int = STEPS) -> tuple[Tensor, Tensor]:
    """The rows of x (..., k) as `q s`: q up to `limit`, int8 or int16, a row's step `s = max|x| / limit` (..., 1) fp32.

    A row that is not finite has a step that is not.
    """
    wide = x.float()
    steps = wide.abs().amax(-1, keepdim=True).clamp_(min=LEAST).div_(limit)
    rounded = (wide * steps.reciprocal()).round_().clamp_(-limit, limit)
    return rounded.to(torch.int8 if limit <= STEPS else torch.int16), steps


def int16_limit(inner: int) -> int:
    """As many steps of int16 as a sum of `inner` products with int8 has room for in int32; 22,017 for 768."""
    return min(32767, (2**31 - 1) // (STEPS * inner))


class Int8Linear(FrozenLinear):
    """A matrix W (out, in) of which int8 alone is kept, in memory once; it gives no gradient.

    `y = (q_x q_W^T) s_x s_W`: in brackets are integers, exact in int32 up to an inner size of 65,536. The extension
    rounds x and scales the sums in the pass that multiplies; elsewhere torch multiplies. Both agree to the last bit,
    but for `add_`, which the extension may round once where torch rounds twice.
    """

    def __init__(self, weight: Tensor) -> None:
        self._keep(*quantise(weight))

    @classmethod
    def of(cls, rounded: Tensor, steps: Tensor) -> Int8Linear:
        """The same of what `quantise` made of a matrix: (out, in) int8, and (out, 1) fp32."""
        made = cls.__new__(cls)
        made._keep(rounded, steps)
        return made

    def _keep(self, rounded: Tensor, steps: Tensor) -> None:
        self._compiled = path(FAMILY, rounded) == COMPILED
        self.weight = torch.ops.compt_fast.pack_int8(rounded) if self._compiled else rounded
        self.steps = steps.flatten()

    @property
    def tensors(self) -> list[Tensor]:
        return [self.weight, self.steps]

    def __call__(self, x: Tensor, relu: bool = False) -> Tensor:
        if self._compiled:
            return torch.ops.compt_fast.product_int8(x, self.weight, self.steps, relu)
        y = self._product(x)
        return (y.relu_() if relu else y).to(x.dtype)

    def add_(self, x: Tensor, total: Tensor) -> None:
        if self._compiled:
            torch.ops.compt_fast.product_int8_add(x, self.weight, self.steps, total)
        else:
            total.copy_(total + self._product(x))

    def _product(self, x: Tensor) -> Tensor:
        """`x W^T` (n, out) fp32 by torch's product of int8, whose sums are exact where there is VNNI or AMX."""
        rounded, steps = quantise(x)
        return torch._int_mm(rounded, self.weight.T).float() * steps * self.steps

    def backward(self, grad: Tensor, activated: Tensor | None = None) -> NoReturn:
        raise RuntimeError("a matrix in int8 gives no gradient: train in fp32 or bf16")


class Int16Linear(FrozenLinear):
    """A matrix W (out, in), or one for each part of a row (G, out, in), of which int8 alone is kept; no gradient.

    As `Int8Linear`, but x is rounded to int16, of as many steps as int32 has room for: what is off is off by the
    matrix alone. Where the extension does not compute it (`Int16Linear.here`), floats do better.
    """

    def __init__(self, weight: Tensor) -> None:
        grouped = (weight if weight.dim() == 3 else weight[None]).contiguous()
        rounded, steps = quantise(grouped)
        self.weight = torch.ops.compt_fast.pack_int16(rounded)
        self.steps = steps[..., 0]

    @staticmethod
    def here(weight: Tensor) -> bool:
        """Whether the extension multiplies int16 on the device of `weight`."""
        return path(FAMILY, weight) == COMPILED

    @property
    def tensors(self) -> list[Tensor]:
        return [self.weight, self.steps]

    def __call__(self, x: Tensor, relu: bool = False) -> Tensor:
        """`x W^T`, (n, in) -> (n, out), or of each part with its own matrix, (n, G, in) -> (n, G, out)."""
        parts = x if x.dim() == 3 else x[:, None]
        y = torch.ops.compt_fast.product_int16(parts.contiguous(), self.weight, self.steps)
        y = y if x.dim() == 3 else y[:, 0]
        return y.relu_() if relu else y

    def add_(self, x: Tensor, total: Tensor) -> None:
        total += self(x)

    def backward(self, grad: Tensor, activated: Tensor | None = None) -> NoReturn:
        raise RuntimeError("a matrix in int8 gives no gradient: train in fp32 or bf16")
