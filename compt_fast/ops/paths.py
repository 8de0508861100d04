"""What computes each family of operators: a formula in PyTorch, the extension's C++, or a Triton kernel.

A family is a module of this package. Its functions hold the formula and ask `path` for every call; nothing else
decides. A family that names no C++ and no Triton, and whatever these do not take, is computed by the formula.

Composition of prompts stands apart: which of its shapes a kernel takes is said in `compose`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from compt_fast import native
from compt_fast.kernels import unavailable

FORMULA, COMPILED, TRITON = "formula", "compiled", "triton"
TRITON_DTYPES = (torch.float32, torch.bfloat16)  # those of T5's kernels


@dataclass(frozen=True)
class Family:
    """What beside its formula computes a family.

    `compiled` are operators of `torch.ops.compt_fast`, `devices` the types of those they take, and `takes` says
    whether they take a dtype (None: every one that the trunk computes in). `triton` is a module of
    `compt_fast.kernels`, for the devices that this does not call unavailable.
    """

    compiled: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu",)
    takes: Callable[[torch.dtype], bool] | None = None
    triton: str = ""


@lru_cache
def _quick(dtype: torch.dtype) -> bool:
    """Whether the extension, which is loaded, multiplies as fast as this processor can."""
    quick: bool = torch.ops.compt_fast.has_products(dtype)
    return quick


FAMILIES: dict[str, Family] = {
    "norm_activation": Family(("rms_norm", "rms_norm_backward", "gated_gelu", "gated_gelu_backward"), triton="norms"),
    "linear": Family(("product", "grouped_product", "product_where", "product_add"), takes=_quick),
    "linear_int8": Family(
        ("pack_int8", "product_int8", "product_int8_add", "pack_int16", "product_int16"),
        takes=lambda dtype: _quick(torch.int8),
    ),
    "attention": Family(("packed_attention", "packed_attention_backward"), triton="attention"),
    "newest_attention": Family(("attend_newest",), triton="newest_attention"),
    "cross_attention": Family(("pack_states", "cross_attention", "cross_attention_backward"), triton="cross_attention"),
    "assembly": Family(("assemble",), devices=("cpu", "cuda", "meta")),
}


def path(family: str, x: Tensor) -> str:
    """`COMPILED`, `TRITON` or `FORMULA`: what computes the operators of one of `FAMILIES` on a tensor like `x`."""
    ways = FAMILIES[family]
    if ways.compiled and _is_compiled_for(ways, x):
        return COMPILED
    return TRITON if ways.triton and x.dtype in TRITON_DTYPES and not unavailable(x.device) else FORMULA


def kernels(family: str) -> ModuleType:
    """A family's Triton kernels, whose import looks for a GPU's driver."""
    return import_module(f"compt_fast.kernels.{FAMILIES[family].triton}")


def _is_compiled_for(ways: Family, x: Tensor) -> bool:
    kind = x.device.type
    if kind not in ways.devices or not native.load() or (kind == "cuda" and not native.has_cuda()):
        return False
    return ways.takes is None or ways.takes(x.dtype)
