"""The choice of a path, and that the chosen one is the reference where there is no CUDA device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compt_fast.kernels.plan import Plan
from compt_fast.ops import compose as fused
from compt_fast.prompts import shape as shapes
from compt_fast.prompts.compose import Mask
from compt_fast.prompts.compose import compose as reference
from compt_fast.prompts.parameters import PromptBank
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError

SPP = PromptShape("spp", tasks=2, sources=2, private=True, length=2, d_model=4)
CPU = torch.device("cpu")


def test_the_path_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    name, why = fused.path(SPP, CPU)
    assert name == "reference" and "CUDA" in why and "cpu" in why
    monkeypatch.setattr(fused, "unavailable", lambda device: "")
    assert fused.path(SPP, CPU)[0] == "kernel"
    name, why = fused.path(replace(SPP, encoder="lstm"), CPU)
    assert name == "reference" and "lstm" in why


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
    ("choices", "setting"),
    [
        ("COMPOSITIONS", "composition"),
        ("ENCODERS", "encoder"),
        ("ENCODED", "encoded"),
        ("SHARINGS", "sharing"),
        ("ROUTERS", "router"),
        ("NORMALISATIONS", "normalisation"),
        ("GATES", "gates"),
    ],
)
def test_what_the_kernel_has_never_heard_of_goes_to_the_formula(
    choices: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a new one of each would come: in the shape's own list, and nowhere else."""
    monkeypatch.setattr(shapes, choices, (*getattr(shapes, choices), "made-up"))
    monkeypatch.setattr(fused, "unavailable", lambda device: "")
    made_up = replace(SPP, **{setting: "made-up"})
    why = fused.unsupported(made_up)
    assert setting in why and "made-up" in why
    assert fused.path(made_up, CPU) == ("reference", why)


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
