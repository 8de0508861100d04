"""The fused composition against the reference formula in float64: outputs and all gradients.

Without a GPU the kernels run in Triton's interpreter, slowly: sizes are tiny, and of the settings every
pair is met. What is special stands in tests of its own.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch

pytest.importorskip("triton")

from compt_fast.kernels.compose import compose_forward
from compt_fast.kernels.plan import COMPUTED, PRODUCTS, Plan, Tiles
from compt_fast.ops.compose import plan_text, run_kernel
from compt_fast.prompts.routing import Mask
from tests.helpers.compositions import (
    AXES,
    DEVICE,
    GRID,
    INSIDE,
    PT,
    SCP,
    SIZES,
    SPP,
    bank_of,
    check,
    direction,
    name,
    pairs_of,
    setting_of,
)
from tools.compile_check import empty_inputs


@pytest.mark.parametrize(("setting", "sizes"), [(s, SIZES[i % len(SIZES)]) for i, s in enumerate(GRID)])
def test_every_pair_of_settings(setting, sizes):
    found = setting_of(setting, sizes)
    assert found is not None
    check(bank_of(found[0]), found[1])


def test_the_grid_is_what_it_says():
    met = set().union(*map(pairs_of, GRID))
    assert (("composition", "scp"), ("normalisation", "sparsemax")) in met
    assert (("composition", "pt"), ("gates", "tied")) not in met  # pt has no gates
    for one, other in combinations(("mask", "encoder", "sharing"), 2):
        assert {((one, a), (other, b)) for a in AXES[one] for b in AXES[other]} <= met


@pytest.mark.parametrize("setting", ["composition", "normaliser", "gates", "mask", "products"])
def test_a_kernel_refuses_a_word_that_none_of_its_branches_knows(setting, monkeypatch):
    """What is let in by mistake must not take another one's meaning."""
    plan = Plan.parsed(plan_text(replace(SPP, gates="learned"), None, "fp32"))
    inputs = empty_inputs(plan, 1, DEVICE)
    for tensor in inputs.listed():
        tensor.zero_()
    monkeypatch.setitem(COMPUTED, setting, (*COMPUTED[setting], "made-up"))
    with pytest.raises(Exception) as raised:
        compose_forward(inputs, replace(plan, **{setting: "made-up"}), torch.float32, save=True)
    assert f"unknown {setting}" in said(raised.value)


def said(error: BaseException | None) -> str:
    """An error's text with those that it came of."""
    return "" if error is None else f"{error}\n{said(error.__cause__ or error.__context__)}"


LOGITS = [
    [[5.0, 0.0, 0.0], [5.0, 1.0, 0.0], [9.0, -1.0, -1.0]],  # one source for all tasks
    [[0.3, 0.3, 0.3], [1.0, 1.0, 0.0], [0.5, 0.5, -0.5]],  # ties, in and out of the support
    [[1.0, 0.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]],  # exactly on its border
]


@pytest.mark.parametrize("sharing", ["per-prompt", "per-role"])
@pytest.mark.parametrize("logits", LOGITS, ids=["one", "ties", "border"])
def test_ties_and_zeros_of_sparsemax(logits, sharing):
    shape = replace(SPP, sources=3, normalisation="sparsemax", sharing=sharing, d_model=8, hidden=8)
    bank = bank_of(shape)
    with torch.no_grad():
        bank.params["router"][0] = torch.tensor(logits)
    check(bank)


def test_a_source_that_no_task_uses_is_not_read():
    shape = replace(SPP, sources=3, normalisation="sparsemax", d_model=8, hidden=8)
    bank = bank_of(shape)
    with torch.no_grad():
        bank.params["router"][:] = torch.tensor([4.0, 0.0, -4.0])
        for key, p in bank.params.items():
            if key.startswith("source"):
                p[:, 1:] = float("nan")
    targets = run_kernel(bank.params, shape).targets
    assert targets is not None and targets.isfinite().all()
    targets.backward(direction(targets))
    for key, p in bank.params.items():
        assert p.grad is not None and p.grad.isfinite().all(), key
        if key.startswith("source"):
            assert p.grad[:, 0].any() and not p.grad[:, 1:].any(), key


ODD = [
    replace(SPP, tasks=1, sources=1, length=1, d_model=7, hidden=5, gates="learned"),
    replace(SPP, tasks=3, sources=5, length=17, d_model=37, hidden=41),
    replace(SCP, tasks=2, sources=3, length=100, d_model=8, hidden=8, gates="tied"),
    replace(INSIDE, tasks=7, sources=6, length=5, d_model=33, encoder="mlp", hidden=3),
    replace(SPP, tasks=2, length=130, d_model=4, hidden=4, sharing="per-role"),
]


@pytest.mark.parametrize("shape", ODD, ids=name)
def test_odd_sizes(shape):
    check(bank_of(shape, runs=1))


@pytest.mark.parametrize(
    ("shape", "mask"),
    [
        (replace(PT, encoder="low-rank", hidden=3, length=17), None),
        (replace(SPP, encoder="low-rank", hidden=5, gates="learned"), Mask((True, False))),
        (replace(INSIDE, encoder="low-rank", hidden=20), None),
    ],
    ids=["pt", "spp masked", "inside shared"],
)
def test_tokens_narrower_than_the_trunk(shape, mask):
    """A product of low rank is a linear layer of narrow tokens."""
    check(bank_of(shape), mask)
    same = replace(shape, encoder="superpos")
    assert plan_text(same, mask, "fp32") == plan_text(shape, mask, "fp32")


def test_many_runs():
    shape = replace(SPP, tasks=1, sources=2, d_model=6, length=2, encoder="linear", gates="learned")
    check(bank_of(shape, runs=27))


@pytest.mark.parametrize("sharing", ["per-prompt", "shared"])
def test_small_tiles(sharing, monkeypatch):
    """Several tiles of columns, of sums, of gradients, and several chunks a piece."""
    small = Tiles(columns=16, inner=16, grad_rows=16, grad_columns=16, elements=64)
    parsed = Plan.parsed
    monkeypatch.setattr(Plan, "parsed", lambda text: replace(parsed(text), tiles=small))
    check(bank_of(replace(SPP, tasks=2, length=18, d_model=20, hidden=18, sharing=sharing, gates="tied"), runs=1))


@pytest.mark.parametrize("shape", [replace(SPP, gates="learned"), INSIDE], ids=name)
def test_permuted_and_strided_inputs(shape):
    bank = bank_of(shape)
    for key, p in bank.params.items():
        strided = torch.empty((*p.shape[::-1], 2), device=p.device)[..., 0].permute(*range(p.dim())[::-1])
        assert not strided.is_contiguous() or p.numel() < 2
        bank.params[key] = strided.copy_(p.detach()).detach().requires_grad_()
    check(bank)


@pytest.fixture
def poisoned():
    """torch.empty gives NaN (integers: their largest value), so that what is not written shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("shape", [replace(SPP, gates="learned"), INSIDE, PT, SCP], ids=name)
def test_everything_is_written_and_the_same_twice(shape, poisoned):
    results = []
    for _ in range(2):
        bank = bank_of(shape)
        check(bank)
        results.append([p.grad for p in bank.params.values()])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("poison", ["router", "gates", "source_tokens", "private_encoder.out.bias"])
def test_a_run_of_nan_leaves_the_others_as_they_are(poison):
    shape = replace(SPP, gates="learned", normalisation="sparsemax", d_model=8, hidden=8)
    sound, sick = bank_of(shape), bank_of(shape)
    with torch.no_grad():
        sick.params[poison][0] = float("nan")
    for bank in (sound, sick):
        targets = run_kernel(bank.params, shape).targets
        assert targets is not None
        assert targets[1].isfinite().all() and targets[0].isnan().any() == (bank is sick)
        targets.backward(direction(targets))
    for key, p in sound.params.items():
        assert p.grad is not None and torch.equal(p.grad[1], sick.params[key].grad[1]), key


@pytest.mark.gpu
@pytest.mark.parametrize("products", PRODUCTS[1:])
@pytest.mark.parametrize(("setting", "sizes"), [(s, SIZES[i % len(SIZES)]) for i, s in enumerate(GRID)])
def test_every_pair_of_settings_in_every_product(setting, sizes, products):
    found = setting_of(setting, sizes)
    assert found is not None
    check(bank_of(found[0]), found[1], products)


@pytest.mark.gpu
@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("sharing", ["per-prompt", "per-role", "shared"])
@pytest.mark.parametrize("length", [5, 100])
def test_every_product_at_t5_base_width(products, sharing, length):
    shape = replace(SPP, tasks=8, sources=3, length=length, d_model=768, hidden=768, gates="learned")
    check(bank_of(replace(shape, sharing=sharing)), products=products)


@pytest.mark.gpu
def test_targets_in_bf16_are_the_rounded_ones():
    bank = bank_of(SPP)
    wanted = run_kernel(bank.params, SPP).targets
    found = run_kernel(bank.params, SPP, dtype=torch.bfloat16).targets
    assert wanted is not None and found is not None
    assert torch.equal(found, wanted.bfloat16())
