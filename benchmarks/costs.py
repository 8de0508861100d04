"""Bytes and operations of a recorded step's calls: what each must at least move and multiply.

Every tensor that a call takes is read once and every one that it gives is written once; what a kernel reads again, a
cache may hold. Operations are those of products, 2 m n k, in the time that the tensor cores need for bf16's: a product
of fp32 in three of tf32 takes six times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.recorded_step import Operator, Step
from compt_fast.kernels.launching import Launch

TIMES = {"bf16": 1, "tf32": 2, "tf32x3": 6, "fp32": 15}
"""How many products of bf16 take as long as one; those of fp32 are made beside the tensor cores."""
PRODUCTS, ATTENTION, CROSS = "products", "attention and norms", "cross-attention"
COMPOSITION, UPDATE, REST = "composition", "update", "elementwise and other"
KINDS = (PRODUCTS, ATTENTION, CROSS, COMPOSITION, UPDATE, REST)
MULTIPLY = {"mm": 0, "bmm": 0, "addmm": 1, "addmm_": 1, "_addmm_activation": 1}
"""torch's products, and where among their arguments the factors begin."""
PICKED = ("index", "embedding", "gather", "index_select")
PUT = ("index_copy_", "scatter_add_", "index_put_")
"""What reads, or changes, no more of its first tensor than it gives, or is given."""
MAKERS = ("zeros_like", "ones_like", "full_like")
PUT_OVER = ("copy_", "fill_", "zero_")
"""What only asks its first tensor for its shape."""

Lengths = Callable[[Tensor], Tensor]
Count = tuple[float, float]
"""Bytes, and operations in bf16."""


@dataclass(frozen=True)
class Call:
    """One launch: of what kind, its name, the sizes that tell it from others, what it moves and multiplies."""

    kind: str
    name: str
    sizes: str
    bytes: float
    operations: float


def calls(step: Step) -> Iterator[Call]:
    """All of a step that a device is given to do."""
    for operator in step.operators:
        if launches(operator):
            yield of_operator(operator)
    for launch in step.launches:
        yield of_launch(launch, step.lengths)


def launches(operator: Operator) -> bool:
    """Whether an operator does anything: views and memory that is only asked for do not."""
    if operator.name.startswith(("empty", "new_empty")):
        return False
    given, made = operator.tensors()
    places = {x.untyped_storage()._cdata for x in given}
    return operator.mutates or not all(x.untyped_storage()._cdata in places for x in made)


def distinct(x: Tensor) -> int:
    """Bytes of a tensor, of what is expanded once."""
    size = x.element_size()
    for count, stride in zip(x.shape, x.stride(), strict=True):
        size *= count if stride else 1
    return size


def of_operator(operator: Operator) -> Call:
    """What one of torch's operators costs."""
    given, made = operator.tensors()
    given = [x for x in given if x.device.type != "cpu"]
    name, sizes = operator.name, "x".join(map(str, made[0].shape))
    if name in MULTIPLY:
        return _product(operator)
    if name in PICKED:
        moved = 2 * distinct(made[0]) + sum(map(distinct, given[1:]))
        return Call(REST, name, sizes, moved, 0)
    if name in PUT:
        return Call(REST, name, sizes, 2 * distinct(given[-1]) + sum(map(distinct, given[1:-1])), 0)
    if name in MAKERS or name.startswith("new_"):
        given = []
    elif name in PUT_OVER:
        given = given[1:]
    return Call(REST, name, sizes, sum(map(distinct, given)) + sum(map(distinct, made)), 0)


def _product(operator: Operator) -> Call:
    first = MULTIPLY[operator.name]
    left, right = operator.args[first], operator.args[first + 1]
    m, k, n = *left.shape[-2:], right.shape[-1]
    many = left.shape[0] if left.dim() == 3 else 1
    _, made = operator.tensors()
    moved = distinct(left) + distinct(right) + distinct(made[0])
    if first:  # what is added: a bias, or the total itself
        moved += distinct(operator.args[0])
    rate = "bf16" if left.dtype == torch.bfloat16 else "fp32"
    sizes = f"{many} of {m}x{k}x{n}" if many > 1 else f"{m}x{k}x{n}"
    return Call(PRODUCTS, operator.name, sizes, moved, 2 * many * m * n * k * TIMES[rate])


def of_launch(launch: Launch, lengths: Lengths) -> Call:
    """What a Triton kernel costs. Raises KeyError for one that `KERNELS` does not know."""
    name = launch.kernel.fn.__name__
    kind, count = KERNELS[name]
    moved, operations = count(launch.arguments, lengths)
    like = next(x for x in tensors(launch.arguments) if x.is_floating_point() and x.dim() > 1)
    return Call(kind, name, "x".join(map(str, like.shape)), moved, operations)


def tensors(arguments: Mapping[str, Any]) -> list[Tensor]:
    """All tensors of a launch, each once."""
    found: dict[int, Tensor] = {}

    def walk(value: Any) -> None:
        if isinstance(value, Tensor):
            found.setdefault(id(value), value)
        elif isinstance(value, tuple):
            for each in value:
                walk(each)

    for value in arguments.values():
        walk(value)
    return list(found.values())


def _all_once(given: Mapping[str, Any], lengths: Lengths) -> Count:
    return float(sum(map(distinct, tensors(given)))), 0.0


def _added_to(name: str) -> Callable[[Mapping[str, Any], Lengths], Count]:
    """All once, and what is added to twice."""
    return lambda given, lengths: (_all_once(given, lengths)[0] + distinct(given[name]), 0.0)


def _attention(products: int, rows: int, numbers: int) -> Callable[[Mapping[str, Any], Lengths], Count]:
    """By a pair's `products` of a head's width; a token's and head's `rows` of that width, and `numbers` in fp32."""

    def count(given: Mapping[str, Any], lengths: Lengths) -> Count:
        own, qkv = lengths(given["cu_seqlens"]), given["qkv"]
        heads, width = qkv.shape[2:]
        tokens, pairs = int(own.sum()), int((own * own).sum())
        moved = tokens * heads * (rows * width * qkv.element_size() + 4 * numbers) + distinct(given["bias"])
        rate = "bf16" if qkv.dtype == torch.bfloat16 else "fp32"
        return moved, 2.0 * products * pairs * heads * width * TIMES[rate]

    return count


def _cross(products: int, pairs: Sequence[str], wide: Sequence[str]) -> Callable[[Mapping[str, Any], Lengths], Count]:
    """By a pair of query and key's `products` of the trunk's width, the tensors that have a number a pair, and the
    `wide` ones, of which what is added to is named twice.
    """

    def count(given: Mapping[str, Any], lengths: Lengths) -> Count:
        queries, keys = lengths(given["cu_seqlens_q"]), lengths(given["cu_seqlens_k"])
        of_pairs, rows = int((queries * keys).sum()), {"states": keys, "total": keys}
        moved = of_pairs * sum(given[name].element_size() for name in pairs)
        for name in wide:
            moved += int(rows.get(name, queries).sum()) * given[name].shape[1] * given[name].element_size()
        if not products:
            return moved, 0.0
        like = given[wide[0]]
        rate = "bf16" if like.dtype == torch.bfloat16 else "fp32"
        return moved, 2.0 * products * of_pairs * like.shape[1] * TIMES[rate]

    return count


def _layers(products: int) -> Callable[[Mapping[str, Any], Lengths], Count]:
    """Of both roles' linear layers; `products` of their inputs' size with each output."""

    def count(given: Mapping[str, Any], lengths: Lengths) -> Count:
        operations = 0
        for layer in (given["source"], given["private"]):
            if layer.inputs is not None and layer.weight is not None:
                outputs = layer.outputs if products == 1 else layer.d_outputs
                operations += 2 * products * layer.inputs.numel() * outputs.shape[-1]
        return _all_once(given, lengths)[0], float(operations * TIMES[given["PLAN"].PRODUCTS])

    return count


def _update(given: Mapping[str, Any], lengths: Lengths) -> Count:
    read_once, changed = given["tensors"].grads, [given["tensors"][i] for i in (0, 2, 3)]
    rest = sum(distinct(x) for name, x in given.items() if isinstance(x, Tensor))
    return float(sum(map(distinct, read_once)) + 2 * sum(distinct(x) for group in changed for x in group) + rest), 0.0


KERNELS: dict[str, tuple[str, Callable[[Mapping[str, Any], Lengths], Count]]] = {
    "_norm": (ATTENTION, _all_once),
    "_norm_backward": (ATTENTION, _added_to("grad")),
    "_forward": (ATTENTION, _attention(2, rows=4, numbers=2)),  # q, k, v and what they come to
    "_backward_queries": (ATTENTION, _attention(3, rows=6, numbers=3)),  # its and its result's gradients, and q's
    "_backward_keys": (ATTENTION, _attention(4, rows=6, numbers=3)),  # two gradients of its own
    "_products": (CROSS, _cross(1, ["out"], ["queries", "states"])),
    "_softmax": (CROSS, _cross(0, ["scores", "out"], [])),
    "_softmax_backward": (CROSS, _cross(0, ["probabilities", "grad", "out"], [])),
    "_weighted_sum": (CROSS, _cross(1, ["weights"], ["states", "out"])),
    "_states_grad": (CROSS, _cross(2, ["score_grad", "probabilities"], ["queries", "grad", "total", "total"])),
    "prepare": (COMPOSITION, _layers(1)),
    "encode": (COMPOSITION, _layers(1)),
    "gather": (COMPOSITION, _all_once),
    "backward_prompts": (COMPOSITION, _all_once),
    "backward_layer": (COMPOSITION, _layers(2)),
    "backward_logits": (COMPOSITION, _all_once),
    "squares": (UPDATE, _all_once),
    "update": (UPDATE, _update),
}
"""The kind of each kernel, and how its bytes and operations are counted from its arguments."""
