"""Cohorts for the fused composition, and its comparison with the reference formula in float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

from compt_fast.ops.compose import run_kernel
from compt_fast.prompts.compose import compose as reference
from compt_fast.prompts.entry import Texts
from compt_fast.prompts.parameters import PromptBank, rate_groups
from compt_fast.prompts.routing import Mask
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SPP = PromptShape("spp", tasks=3, sources=2, private=True, length=3, d_model=20, hidden=12)
SCP = replace(SPP, composition="scp", normalisation="softmax")
PT = replace(SPP, composition="pt", sources=0)
INSIDE = replace(SPP, composition="inside", sources=3, encoder="linear", sharing="shared")
ERRORS = {"fp32": 3e-6, "tf32x3": 1e-5, "tf32": 3e-3, "bf16": 3e-2}
"""Largest error of a tensor, in parts of its largest value."""


AXES: dict[str, tuple[Any, ...]] = {
    "composition": ("spp", "scp", "pt", "mst", "inside", "inside without private"),
    "normalisation": ("auto", "softmax", "sparsemax", "sigmoid", "softmax-temperature", "constant"),
    "gates": ("fixed", "learned", "learned-global", "tied"),
    "mask": (None, "before", "after", "all"),
    "encoder": ("mlp", "linear", "none"),
    "sharing": ("per-prompt", "per-role", "shared"),
}
SIZES = ((3, 2, 3), (2, 5, 1), (1, 1, 4), (4, 3, 2), (2, 1, 17), (3, 4, 3), (5, 7, 2))
"""Tasks, sources, length."""
Setting = tuple[Any, ...]


def setting_of(setting: Setting, sizes: tuple[int, int, int]) -> tuple[PromptShape, Mask | None] | None:
    """What a setting means; None for one that no shape can have."""
    composition, normalisation, gates, masking, encoder, sharing = setting
    tasks, sources, length = sizes
    sources = {"pt": 0, "mst": 1}.get(composition, sources)
    constant = normalisation == "constant"
    private = composition not in ("mst", "inside without private")
    try:
        shape = PromptShape(
            composition.removesuffix(" without private"), tasks, sources, private, length, 20, encoder, sharing,
            hidden=12, router="constant" if constant else "direct",
            normalisation="auto" if constant else normalisation, gates=gates,
        )  # fmt: skip
    except InputError:
        return None
    if masking is None:
        return shape, None
    on = tuple(masking != "all" and i % 2 == 0 for i in range(sources))
    return shape, Mask(on, private=masking == "before", how="after" if masking == "after" else "before")


def pairs_of(setting: Setting) -> set[tuple[tuple[str, Any], ...]]:
    return set(combinations(zip(AXES, setting, strict=True), 2))


def pairwise() -> list[Setting]:
    """Settings that hold every pair of values that can stand together, the one with most new pairs first."""
    candidates = {s: pairs_of(s) for s in product(*AXES.values()) if setting_of(s, SIZES[0])}
    chosen: list[Setting] = []
    left = set().union(*candidates.values())
    while left:
        best = max(candidates, key=lambda s: len(candidates[s] & left))
        left -= candidates.pop(best)
        chosen.append(best)
    return chosen


GRID = pairwise()


def name(value: object) -> str:
    if not isinstance(value, PromptShape):
        return repr(value)
    sizes = f"{value.tasks}x{value.sources}x{value.length}x{value.d_model}x{value.hidden}"
    parts = (value.composition, sizes, value.encoder, value.sharing, value.router)
    return "-".join((*parts, value.normaliser, value.gates))


def bank_of(shape: PromptShape, runs: int = 2) -> PromptBank:
    """A bank with a router and gates as if trained."""
    bank = PromptBank.create(shape, list(range(runs)))
    generator = torch.Generator().manual_seed(7)
    groups = rate_groups(shape)
    with torch.no_grad():
        for key, p in bank.params.items():
            if groups[key] == "router":
                p.copy_(torch.randn(p.shape, generator=generator))
    return bank.to(DEVICE)


def direction(targets: Tensor) -> Tensor:
    """A gradient for the targets."""
    drawn = torch.randn(targets.shape, generator=torch.Generator().manual_seed(3))
    return drawn.to(targets)


def near(found: Tensor, wanted: Tensor, error: float, least: float = 1e-3) -> None:
    """Every difference is below `error` in parts of the largest value wanted; NaN fails."""
    assert found.shape == wanted.shape
    scale = max(wanted.abs().max().item(), least) if wanted.numel() else 1.0
    assert ((found.double() - wanted).abs() <= error * scale).all()


def check(bank: PromptBank, mask: Mask | None = None, products: str = "fp32") -> None:
    """Targets, weights, gates and all gradients are the reference's; the bank keeps its gradients."""
    shape, exact = bank.shape, bank.to(torch.float64)
    wanted = reference(exact.params, shape, mask=mask)
    found = run_kernel(bank.params, shape, mask=mask, products=products)
    assert wanted.targets is not None and found.targets is not None
    near(found.targets.detach(), wanted.targets, ERRORS[products])
    for part in ("weights", "gates"):
        own, other = getattr(found, part), getattr(wanted, part)
        assert (own is None) == (other is None)
        if other is not None:
            near(own, other, 2e-6)
    if not wanted.targets.requires_grad:
        return
    wanted.targets.backward(direction(wanted.targets))
    found.targets.backward(direction(wanted.targets).float())
    for key, p in exact.params.items():
        grad = torch.zeros_like(p) if p.grad is None else p.grad
        own = bank.params[key].grad
        assert own is not None, key
        # On a GPU, which fuses products and sums, a gradient that is 0 as two terms cancel is as exact as these are.
        near(own, grad, 2 * ERRORS[products], least=1e-3 if DEVICE == "cpu" else 1e-2)


def texts_of(means: Tensor) -> Texts:
    """Texts of one token each, which is its own mean."""
    return Texts(means, torch.ones(len(means), dtype=torch.int64))
