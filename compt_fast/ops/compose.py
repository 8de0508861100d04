"""The seam of composition: the fused kernel where it runs and takes the shape, else the reference formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from compt_fast.kernels import unavailable
from compt_fast.kernels.plan import COMPUTED, MAX_TASKS, MAX_WEIGHTS, Plan
from compt_fast.ops.paths import FORMULA, TRITON
from compt_fast.prompts.compose import Composition
from compt_fast.prompts.compose import compose as formula
from compt_fast.prompts.compositions import COMPOSITIONS
from compt_fast.prompts.encoders import ENCODERS
from compt_fast.prompts.encoding import encoder_prefix
from compt_fast.prompts.entry import Entry
from compt_fast.prompts.gates import GATES
from compt_fast.prompts.normalisations import NORMALISATIONS
from compt_fast.prompts.parameters import parameter_shapes
from compt_fast.prompts.routers import ROUTERS
from compt_fast.prompts.routing import Mask
from compt_fast.prompts.shape import ROLES, PromptShape

PRODUCTS = {"highest": "tf32x3", "high": "tf32", "medium": "bf16"}
"""How the kernel multiplies at each of torch's settings of `set_float32_matmul_precision`."""
ENTRIES: dict[str, Mapping[str, Entry]] = {
    "encoders": ENCODERS,
    "routers": ROUTERS,
    "normalisations": NORMALISATIONS,
    "gates": GATES,
    "compositions": COMPOSITIONS,
}


def without_kernel() -> list[str]:
    """What of each kind the formula computes on every device: "lstm encoders"."""
    return [f"{name} {kind}" for kind, of in ENTRIES.items() for name, entry in of.items() if entry.kernel is None]


@torch.compiler.assume_constant_result
def path(shape: PromptShape, device: torch.device) -> tuple[str, str]:
    """(`TRITON` or `FORMULA`, why): what composes the training targets of a shape on a device."""
    refused = unavailable(device) or unsupported(shape)
    if refused:
        return FORMULA, refused
    return TRITON, "two launches forward, at most three backward"


def unsupported(shape: PromptShape) -> str:
    """What of a shape the kernels do not compute; empty where they compute all.

    An entry says which kernel is its own, and `COMPUTED` which there are: all else goes to the formula.
    """
    for setting, name, entry in shape.named_entries:
        if entry.kernel not in COMPUTED[_field(setting)]:
            return f"no kernel computes {setting} {name!r}"
    for setting in ("encoded", "sharing"):
        if getattr(shape, setting) not in COMPUTED[setting]:
            return f"no kernel computes {setting} {getattr(shape, setting)!r}"
    if shape.tasks > MAX_TASKS:
        return f"{shape.tasks} tasks are more than {MAX_TASKS}"
    if shape.n_weights > MAX_WEIGHTS:
        return f"{shape.n_weights} source weights are more than {MAX_WEIGHTS}"
    return ""


def _field(setting: str) -> str:
    """What a plan calls a setting."""
    return "normaliser" if setting == "normalisation" else setting


def compose(
    params: Mapping[str, Tensor],
    shape: PromptShape,
    *,
    training: bool = False,
    temperature: Tensor | None = None,
    noise: Tensor | None = None,
    mask: Mask | None = None,
    dtype: torch.dtype | None = None,
) -> Composition:
    """`compt_fast.prompts.compose.compose` on the path that `path` names; its arguments and errors.

    Targets are in `dtype`, the parameters' if None. The kernel, which takes fp32 parameters only,
    leaves `sources` and `privates` None, and its weights and gates carry no gradient.
    """
    some = next(iter(params.values()))
    if some.dtype == torch.float32 and path(shape, some.device)[0] == TRITON:
        return run_kernel(params, shape, mask=mask, dtype=dtype or torch.float32)
    found = formula(params, shape, training=training, temperature=temperature, noise=noise, mask=mask)
    if dtype is None or found.targets is None:
        return found
    return replace(found, targets=found.targets.to(dtype))


def run_kernel(
    params: Mapping[str, Tensor],
    shape: PromptShape,
    *,
    mask: Mask | None = None,
    dtype: torch.dtype = torch.float32,
    products: str | None = None,
) -> Composition:
    """`compose` by the kernel. `products` is one of `compt_fast.kernels.plan.PRODUCTS`; None asks torch."""
    from compt_fast.kernels.compose import compose as operator

    names, plan = planned(shape, mask, products)
    tensors = _tensors(params, names, shape)
    if mask and shape.n_weights:
        tensors.append(tensors[0].new_tensor([float(on) for on in mask.candidates(shape)]))
    save = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    targets, weights, gates = operator(tensors, plan, dtype, save)[:3]
    return Composition(
        targets,
        None,
        None,
        weights.detach() if shape.sources else None,
        gates.detach() if shape.has_gates else None,
    )


def _tensors(params: Mapping[str, Tensor], names: Sequence[str], shape: PromptShape) -> list[Tensor]:
    """The parameters of these names as the kernel takes them: an encoder's as layers, where they are none."""
    layers = shape.entries.encoder.layers
    if layers is None:
        return [params[name] for name in names]
    found = []
    for prefix, group in grouped(names):
        own = {name.removeprefix(f"{prefix}."): params[name] for name in group}
        found += layers(own) if prefix.endswith("_encoder") else list(own.values())
    return found


@torch.compiler.assume_constant_result
def grouped(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Neighbours whose names begin alike, up to the first full stop, with that beginning."""
    return [(prefix, list(group)) for prefix, group in groupby(names, lambda name: name.partition(".")[0])]


@torch.compiler.assume_constant_result
def planned(shape: PromptShape, mask: Mask | None, products: str | None) -> tuple[tuple[str, ...], str]:
    """What the operator is given beside tensors: their names, and a plan; a constant to torch.compile."""
    products = products or PRODUCTS[torch.get_float32_matmul_precision()]
    return input_names(shape), plan_text(shape, mask, products)


@lru_cache
def input_names(shape: PromptShape) -> tuple[str, ...]:
    """The bank's tensors in the kernel's order, which is the bank's."""
    return tuple(parameter_shapes(shape))


@lru_cache
def plan_text(shape: PromptShape, mask: Mask | None, products: str) -> str:
    """The kernel's plan of a shape."""
    words: dict[str, Any] = {setting: entry.kernel for setting, _, entry in shape.named_entries}
    encoder = shape.entries.encoder
    narrow = encoder.width(shape) if encoder.layers is not None else 0
    divided = shape.has_router and shape.entries.normalisation.temperature
    plan = Plan(
        composition=words["composition"],
        tasks=shape.tasks,
        sources=shape.sources,
        privates=shape.prompts("private"),
        n_weights=shape.n_weights,
        length=shape.length,
        d=shape.d_model,
        hidden=0 if narrow else shape.hidden,
        encoder=words["encoder"],
        per_prompt=shape.sharing == "per-prompt",
        shared=len({encoder_prefix(shape, role) for role in ROLES}) == 1,
        normaliser=words.get("normalisation", "constant"),
        tau=shape.tau if divided else 1.0,
        gates=words.get("gates", "none"),
        mask=mask.how if mask and shape.n_weights else "none",
        private_on=mask is None or mask.private,
        products=products,
        width=narrow,
    )
    return plan.text
