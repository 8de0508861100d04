"""Random bad arguments for the compiled operators.

`python -m tests.helpers.abuse LIBRARY FIRST LAST` calls them with the seeds FIRST ... LAST - 1: the
process survives and every call ends in an error of Python's, or in the right result. Only the library
is loaded, so that one built with sanitizers can be.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compt_fast.ops.linear_int8 import quantise
from tests.helpers.assembly import case
from tests.helpers.operators import RESULTS

REFUSED = (ValueError, TypeError, RuntimeError, IndexError, NotImplementedError)
HUGE = 2**62
NUMBERS = (-1, 0, 1, 2, 5, 49, 50, 1000, 2**31, 2**50, HUGE, -HUGE, 2**63 - 1, -(2**63))


def _changed_value(tensor: Tensor, chance: random.Random) -> Tensor:
    if tensor.numel() == 0 or tensor.dtype == torch.bool:
        return tensor
    changed = tensor.clone()
    values = NUMBERS if not tensor.is_floating_point() else (float("nan"), float("inf"), 1e30)
    if tensor.dtype == torch.int64 or tensor.is_floating_point():
        changed.view(-1)[chance.randrange(tensor.numel())] = chance.choice(values)
    return changed


def _freed(tensor: Tensor) -> Tensor:
    freed = tensor.clone()
    freed.untyped_storage().resize_(0)
    return freed


def _is_final(tensor: Tensor) -> bool:
    """Whether torch's own functions would not survive another change, or not end."""
    if tensor.numel() > 2**16 or tensor.is_complex():
        return True
    dense = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return dense and tensor.numel() > 0 and tensor.untyped_storage().nbytes() == 0


def _expanded(tensor: Tensor, chance: random.Random) -> Tensor:
    rows = chance.choice((0, 3, 2**20, 2**40))
    return tensor[:1].expand(rows, *tensor.shape[1:]) if tensor.dim() and len(tensor) else tensor


TYPES = (torch.int32, torch.int64, torch.uint8, torch.bool, torch.float32, torch.float64, torch.bfloat16, torch.cfloat)
CHANGES: tuple[Callable[[Tensor, random.Random], Any], ...] = (
    _changed_value,
    _changed_value,
    _changed_value,
    _expanded,
    lambda tensor, chance: tensor.to(chance.choice(TYPES)),
    lambda tensor, chance: tensor[1:] if tensor.dim() else tensor,
    lambda tensor, chance: torch.cat([tensor, tensor[-1:]]) if tensor.dim() else tensor,
    lambda tensor, chance: tensor[:0] if tensor.dim() else tensor,
    lambda tensor, chance: tensor.flip(0) if tensor.dim() else tensor,
    lambda tensor, chance: tensor[None],
    lambda tensor, chance: tensor.flatten(),
    lambda tensor, chance: tensor.sum(),
    lambda tensor, chance: tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor,
    lambda tensor, chance: tensor.to("meta"),
    lambda tensor, chance: tensor.to_sparse() if tensor.dim() else tensor,
    lambda tensor, chance: tensor.clone().requires_grad_() if tensor.is_floating_point() else tensor,
    lambda tensor, chance: _freed(tensor),
    lambda tensor, chance: chance.choice((None, 3, 2.5, "text", [tensor])),
)


def spoil(arguments: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """One to three arguments changed in some way."""
    spoilt = dict(arguments)
    for _ in range(chance.choice((1, 1, 2, 3))):
        name = chance.choice(list(spoilt))
        if isinstance(spoilt[name], Tensor) and not _is_final(spoilt[name]):
            with contextlib.suppress(*REFUSED):  # not everything can be done to what is spoilt already
                spoilt[name] = chance.choice(CHANGES)(spoilt[name], chance)
        elif isinstance(spoilt[name], int):
            spoilt[name] = chance.choice((*NUMBERS, None, "text"))
    return spoilt


def attention_case(seed: int) -> dict[str, Any]:
    """Arguments of the attention operator."""
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(17, 3, 2, 5, generator=generator).to((torch.float32, torch.bfloat16)[seed % 2])
    cu_seqlens = torch.tensor([0, 4, 4, 15, 17])
    return {"qkv": qkv, "cu_seqlens": cu_seqlens, "bias": torch.randn(2, 2 * 11 - 1, generator=generator)}


def newest_case(seed: int) -> dict[str, Any]:
    """Arguments of the attention of each row's newest token, of which some are written."""
    generator = torch.Generator().manual_seed(seed)
    dtype = (torch.float32, torch.bfloat16)[seed % 2]
    qkv, cache = (torch.randn(shape, generator=generator).to(dtype) for shape in ((4, 3, 2, 5), (4, 6, 2, 2, 5)))
    return {"qkv": qkv, "cache": cache, "written": seed % 6, "bias": torch.randn(2, 2 * 6 - 1, generator=generator)}


def cross_attention_calls(seed: int) -> dict[str, dict[str, Any]]:
    """Good arguments of the operators of cross-attention."""
    ops = torch.ops.compt_fast
    generator = torch.Generator().manual_seed(seed)
    queries, states = (
        torch.randn(rows, 7, generator=generator).to((torch.float32, torch.bfloat16)[seed % 2]) for rows in (9, 20)
    )
    cu_seqlens = {"cu_seqlens_q": torch.tensor([0, 4, 4, 9]), "cu_seqlens_k": torch.tensor([0, 3, 9, 20])}
    asked = {"queries": queries, "packed": ops.pack_states(states, cu_seqlens["cu_seqlens_k"])} | cu_seqlens
    out, lse = ops.cross_attention(**asked)
    return {
        "pack_states": {"states": states, "cu_seqlens": cu_seqlens["cu_seqlens_k"]},
        "cross_attention": asked,
        "cross_attention_backward": asked | {"grad_out": out, "lse": lse, "grad_states": torch.zeros(20, 7)},
    }


def int_calls(x: Tensor, weight: Tensor, total: Tensor) -> dict[str, dict[str, Any]]:
    """Good arguments of the products in int8 and int16, of floats that can be multiplied."""
    rounded, steps = quantise(weight)
    packed = torch.ops.compt_fast.pack_int16(rounded[None])
    asked = {"x": x, "panels": torch.ops.compt_fast.pack_int8(rounded), "steps": steps.flatten()}
    return {
        "pack_int8": {"weight": rounded},
        "product_int8": asked | {"relu": len(x) % 2 == 0},
        "product_int8_add": asked | {"total": total.clone()},
        "pack_int16": {"weight": rounded[None]},
        "product_int16": {"x": x[:, None], "panels": packed, "steps": steps.flatten()[None]},
    }


def calls(seed: int) -> dict[str, dict[str, Any]]:
    """Good arguments of every operator, by its name."""
    ops = torch.ops.compt_fast
    assembly = case(seed=seed, prompt_type=TYPES[4 + seed % 3], trunk_type=TYPES[4 + seed // 3 % 3])
    packed, cu_seqlens = ops.assemble(**assembly)
    backward = {
        "grad": packed,
        "prompt_cu_seqlens": assembly["prompt_cu_seqlens"],
        "slots": assembly["slots"],
        "packed_cu_seqlens": cu_seqlens,
        "prompt_rows": 9,
        "prepend": True,
    }
    attention = attention_case(seed)
    out, lse = ops.packed_attention(**attention)
    x = attention["qkv"].flatten(1)
    y, r = ops.rms_norm(x, 1e-6)
    gated = ops.gated_gelu(x)
    weight = torch.randn(70, x.shape[1], generator=torch.Generator().manual_seed(seed)).to(x.dtype)
    inner = ops.product(x, weight, relu=True)
    return (
        {
            "assemble": assembly | {"total": len(packed) + seed % 2},
            "assemble_backward": backward,
            "packed_attention": attention,
            "packed_attention_backward": {"grad_out": out, "lse": lse} | attention,
            "attend_newest": newest_case(seed),
            "rms_norm": {"x": x, "eps": 1e-6},
            "rms_norm_backward": {"grad_y": y, "y": y, "r": r, "grad": x.clone()},
            "gated_gelu": {"uv": x},
            "gated_gelu_backward": {"grad": gated, "uv": x},
            "product": {"x": x, "weight": weight, "back": False, "relu": seed % 3 == 0},
            "grouped_product": {"x": x[:, None], "weight": weight[None], "back": False},
            "product_where": {"x": x, "weight": weight.T.contiguous(), "inner": inner},
            "product_add": {"x": x, "weight": weight, "total": inner.clone()},
        }
        | cross_attention_calls(seed)
        | int_calls(x, weight, inner)
    )


WRITTEN = {
    "attend_newest": "cache",
    "rms_norm_backward": "grad",
    "cross_attention_backward": "grad_states",
    "product_add": "total",
    "product_int8_add": "total",
}
"""What an operator writes into."""
IN_PLACE = tuple(dict.fromkeys(WRITTEN.values()))


def side_by_side(written: Tensor, other: Tensor, *, overlap: bool) -> tuple[Tensor, Tensor]:
    """Copies of both in one piece of memory: one after the other, or with a few bytes in common."""
    size, step = written.nbytes, 8  # a multiple of every dtype's size
    begin = (size - 1) // step * step if overlap else -(-size // step) * step
    memory = torch.zeros(begin + max(other.nbytes, step), dtype=torch.uint8)

    def at(start: int, like: Tensor) -> Tensor:
        return memory[start : start + like.nbytes].view(like.dtype).view(like.shape).copy_(like)

    return at(0, written), at(begin, other)


def _is_moderate(name: str, arguments: dict[str, Any]) -> bool:
    """Whether all is on the CPU and fits there, and rounding alone keeps an operator from what float64 gives."""
    tensors = [value for value in arguments.values() if isinstance(value, Tensor)]
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    if any(tensor.device.type != "cpu" or tensor.numel() > 2**24 for tensor in tensors):
        return False
    return name == "assemble" or all((tensor.abs() < 1e4).all() for tensor in floats)


def check_result(name: str, arguments: dict[str, Any], found: tuple[Tensor, ...]) -> None:
    """That what an operator returned, and wrote, is right for the arguments as they were before."""
    rounded = any(isinstance(value, Tensor) and value.dtype == torch.bfloat16 for value in arguments.values())
    error = 3e-2 if rounded else 2e-4
    for own, right in zip(found, RESULTS[name](**arguments), strict=True):
        if name == "assemble":
            torch.testing.assert_close(own.detach(), right.detach(), equal_nan=True)
        else:
            assert own.shape == right.shape
            scale = float(right.detach().abs().max().clamp(min=1)) if right.numel() else 1.0
            assert ((own.double() - right).abs() <= error * scale).all(), name


@dataclass(frozen=True)
class Outcome:
    """What a bad call of `operator` ended in: an error, "" where the arguments were still good.

    `checked`: its result was held against the right one.
    """

    operator: str
    error: str
    checked: bool = False


def abuse(seed: int) -> Outcome:
    """One bad call."""
    chance = random.Random(seed)
    every = calls(seed)
    name = chance.choice(list(every))
    spoilt = spoil(every[name], chance)
    before = {
        key: spoilt[key].detach().clone()
        for key in IN_PLACE
        if isinstance(spoilt.get(key), Tensor) and not _is_final(spoilt[key])
    }
    try:
        result = getattr(torch.ops.compt_fast, name)(**spoilt)
    except REFUSED as error:
        return Outcome(name, str(error))
    found = () if result is None else result if isinstance(result, tuple) else (result,)
    written = WRITTEN.get(name)
    if written is not None:
        found += (spoilt[written],)
    arguments = spoilt | before
    if "packed" in arguments:  # its meaning is known as long as it is what pack_states made of these states
        if any(arguments[key] is not every[name][key] for key in ("packed", "cu_seqlens_k")):
            return Outcome(name, "")
        del arguments["packed"]
        arguments["states"] = every["pack_states"]["states"]
    if name not in RESULTS or not _is_moderate(name, arguments):
        return Outcome(name, "")
    check_result(name, arguments, found)
    return Outcome(name, "", checked=True)


def main(path: str, first: str, last: str) -> None:
    """See the module."""
    torch.ops.load_library(path)
    outcomes = [abuse(seed) for seed in range(int(first), int(last))]
    print(len(outcomes), sum(1 for outcome in outcomes if outcome.error))


if __name__ == "__main__":
    main(*sys.argv[1:])
