"""The choice of a path, and that the chosen one is the reference where there is no CUDA device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from compt_fast.kernels.plan import COMPUTED, Plan
from compt_fast.ops import compose as fused
from compt_fast.ops.paths import FORMULA, TRITON
from compt_fast.prompts import shape as shapes
from compt_fast.prompts.compose import compose as reference
from compt_fast.prompts.compositions import COMPOSITIONS
from compt_fast.prompts.encoders import ENCODERS
from compt_fast.prompts.gates import GATES
from compt_fast.prompts.normalisations import NORMALISATIONS
from compt_fast.prompts.parameters import PromptBank
from compt_fast.prompts.routers import ROUTERS
from compt_fast.prompts.routing import Mask
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError
from compt_fast.utils.registry import Registry

SPP = PromptShape("spp", tasks=2, sources=2, private=True, length=2, d_model=4)
CPU = torch.device("cpu")


def test_the_path_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    name, why = fused.path(SPP, CPU)
    assert name == FORMULA and "CUDA" in why and "cpu" in why
    monkeypatch.setattr(fused, "unavailable", lambda device: "")
    assert fused.path(SPP, CPU)[0] == TRITON
    name, why = fused.path(replace(SPP, encoder="lstm"), CPU)
    assert name == FORMULA and "lstm" in why


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder": "lstm"}, "lstm"),
        ({"router": "relaxed-bernoulli"}, "relaxed"),
        ({"gates": "input"}, "input"),
        ({"tasks": 129}, "129 tasks"),
        ({"sources": 33}, "33 source weights"),
        ({"encoded": "private"}, "encoded 'private'"),
    ],
)
def test_what_the_kernel_does_not_take_is_said(changes: dict[str, object], said: str) -> None:
    assert said in fused.unsupported(replace(SPP, **changes))
    assert fused.unsupported(SPP) == ""


@pytest.mark.parametrize(
    ("setting", "known", "registry"),
    [
        ("composition", "spp", COMPOSITIONS),
        ("encoder", "mlp", ENCODERS),
        ("router", "direct", ROUTERS),
        ("normalisation", "softmax", NORMALISATIONS),
        ("gates", "learned", GATES),
    ],
)
@pytest.mark.parametrize("kernel", [None, "made-up"])
def test_what_the_kernel_has_never_heard_of_goes_to_the_formula(
    setting: str, known: str, registry: Registry[Any], kernel: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether an entry names no kernel, as every new one, or one that is not there."""
    monkeypatch.setitem(registry, "made-up", replace(registry[known], kernel=kernel))
    monkeypatch.setattr(fused, "unavailable", lambda device: "")
    made_up = replace(SPP, **{setting: "made-up"})
    why = fused.unsupported(made_up)
    assert why == f"no kernel computes {setting} 'made-up'"
    assert fused.path(made_up, CPU) == (FORMULA, why)
    kind = next(kind for kind, of in fused.ENTRIES.items() if of is registry)
    assert (f"made-up {kind}" in fused.without_kernel()) == (kernel is None)


@pytest.mark.parametrize(("choices", "setting"), [("ENCODED", "encoded"), ("SHARINGS", "sharing")])
def test_a_way_of_encoding_that_the_kernel_has_never_heard_of_goes_to_the_formula(
    choices: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, choices, (*getattr(shapes, choices), "made-up"))
    assert fused.unsupported(replace(SPP, **{setting: "made-up"})) == f"no kernel computes {setting} 'made-up'"


def test_the_kernels_that_entries_name_are_there() -> None:
    known = {kernel for kernels in COMPUTED.values() for kernel in kernels}
    named = {entry.kernel for of in fused.ENTRIES.values() for entry in of.values()}
    assert named - {None} <= known
    routers = ["relaxed-bernoulli routers", "attention routers", "sparse routers", "input gates"]
    rules = [f"{name} compositions" for name in ("attempt", "progressive", "factored", "dept", "adept")]
    assert fused.without_kernel() == ["lstm encoders", "residual encoders", *routers, *rules]


def test_no_plan_says_what_no_kernel_computes() -> None:
    plan = Plan.parsed(fused.plan_text(SPP, None, "fp32"))
    for setting in ("composition", "encoder", "normaliser", "gates", "mask", "products"):
        with pytest.raises(ValueError, match=f"{setting} 'made-up'"):
            replace(plan, **{setting: "made-up"})


def test_on_the_cpu_the_reference_composes() -> None:
    bank, mask = PromptBank.create(SPP, [0, 1]), Mask((True, False))
    found, wanted = fused.compose(bank.params, SPP, mask=mask), reference(bank.params, SPP, mask=mask)
    for part in ("targets", "sources", "privates", "weights", "gates"):
        assert torch.equal(getattr(found, part), getattr(wanted, part))
    rounded = fused.compose(bank.params, SPP, mask=mask, dtype=torch.bfloat16).targets
    assert rounded is not None and wanted.targets is not None
    assert torch.equal(rounded, wanted.targets.bfloat16())


def test_a_mask_of_another_size_is_refused_on_either_path(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = PromptBank.create(SPP, [0])
    for refused in ("not here", ""):
        monkeypatch.setattr(fused, "unavailable", lambda device, why=refused: why)
        with pytest.raises(InputError, match="3 source prompts, but there are 2"):
            fused.compose(bank.params, SPP, mask=Mask((True, False, True)))


def test_the_kernel_gets_the_banks_tensors_in_order() -> None:
    assert fused.input_names(replace(SPP, gates="tied")) == tuple(
        "source_tokens private_tokens source_encoder.hidden.weight source_encoder.hidden.bias "
        "source_encoder.out.weight source_encoder.out.bias private_encoder.hidden.weight "
        "private_encoder.hidden.bias private_encoder.out.weight private_encoder.out.bias router gates".split()
    )
    shared = replace(SPP, encoder="linear", sharing="shared", router="constant")
    assert fused.input_names(shared) == (
        "source_tokens",
        "private_tokens",
        "shared_encoder.out.weight",
        "shared_encoder.out.bias",
    )
