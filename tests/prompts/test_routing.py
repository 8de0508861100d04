import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compt_fast.prompts.routing import Mask, anneal, relaxed_bernoulli, sparsemax, weights
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError

SPP = PromptShape("spp", tasks=2, sources=4, private=True, length=2, d_model=4)
ROUGH = st.integers(-40, 40).map(lambda i: i / 8)  # eighths: ties and boundary cases are common
FINE = st.floats(-5, 5, width=64)


def project(z: list[float]) -> list[float]:
    """The point of the simplex nearest to z, by trying every support."""
    best: tuple[float, list[float]] = (math.inf, [])
    for size in range(1, len(z) + 1):
        for support in itertools.combinations(range(len(z)), size):
            shift = (1 - sum(z[i] for i in support)) / size
            p = [z[i] + shift if i in support else 0.0 for i in range(len(z))]
            distance = sum((a - b) ** 2 for a, b in zip(p, z, strict=True))
            if min(p) >= 0 and distance < best[0]:
                best = (distance, p)
    return best[1]


@settings(deadline=None, max_examples=200)
@given(st.one_of(st.lists(ROUGH, min_size=1, max_size=6), st.lists(FINE, min_size=1, max_size=6)))
def test_sparsemax_is_the_projection_onto_the_simplex(z):
    p = sparsemax(torch.tensor(z, dtype=torch.float64))
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    assert p.min().item() >= 0
    assert p.tolist() == pytest.approx(project(z), abs=1e-9)


def test_sparsemax_zeros_are_exact_and_ties_are_even():
    z = torch.tensor([[2.0, 0.5, -1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.3, 0.3, 0.3]])
    expected = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [1 / 3] * 3]
    torch.testing.assert_close(sparsemax(z), torch.tensor(expected), rtol=0, atol=1e-7)
    assert (sparsemax(z) == 0).sum() == 5


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(-3000, 3000), min_size=2, max_size=12, unique=True), st.integers(0, 99))
def test_sparsemax_gradient_is_the_centred_one_of_the_support(grid, seed):
    # multiples of an irrational step, so that no entry stands on the boundary of the support
    z = torch.tensor(grid, dtype=torch.float64) * math.sqrt(2) / 1000
    z.requires_grad_()
    g = torch.randn(len(grid), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    p = sparsemax(z)
    (dz,) = torch.autograd.grad(p, z, g)
    support = p > 0
    expected = torch.where(support, g - g[support].mean(), 0)
    torch.testing.assert_close(dz, expected, rtol=0, atol=1e-12)


def test_sparsemax_gradcheck():
    z = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.autograd.gradcheck(sparsemax, (z.requires_grad_(),))
    assert torch.autograd.gradgradcheck(sparsemax, (z,))


def test_sparsemax_of_large_logits_in_fp32():
    z = torch.tensor([10000.25, 10000.0, 9998.0])
    torch.testing.assert_close(sparsemax(z), torch.tensor([0.625, 0.375, 0.0]), rtol=0, atol=0)


def test_sparsemax_lets_nan_through_to_its_own_row_only():
    z = torch.tensor([[0.0, float("nan")], [0.0, 3.0]])
    p = sparsemax(z)
    assert p[0].isnan().all()
    assert p[1].tolist() == [0.0, 1.0]


def test_relaxed_bernoulli_formula():
    z, u = torch.tensor([[[0.7, -2.0]]]), torch.tensor([[[0.2, 0.9]]])
    w = relaxed_bernoulli(z, torch.tensor([0.5], dtype=torch.float64), u)
    assert w.dtype == torch.float32  # the parameters' dtype, whatever the schedule's
    for i in range(2):
        a, b = z[0, 0, i].item(), u[0, 0, i].item()
        expected = 1 / (1 + math.exp(-(a + math.log(b / (1 - b))) / 0.5))
        assert w[0, 0, i].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [5.0, 0.1])
def test_relaxed_bernoulli_crosses_one_half_with_the_probability_of_its_logit(temperature):
    n = 40_000
    u = torch.rand(1, 1, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = relaxed_bernoulli(torch.full_like(u, 0.8), torch.tensor([temperature]), u)
    share = (w > 0.5).double().mean().item()
    assert share == pytest.approx(1 / (1 + math.exp(-0.8)), abs=4 * 0.5 / math.sqrt(n))


@pytest.mark.parametrize("temperature", [5.0, 0.1])
def test_relaxed_bernoulli_with_noise_of_zero_and_one(temperature):
    z = torch.zeros(1, 1, 2, requires_grad=True)
    w = relaxed_bernoulli(z, torch.tensor([temperature]), torch.tensor([[[0.0, 1.0]]]))
    extreme = 1 / (1 + math.exp(math.log(2**-23) / temperature))  # fp32's step stands for 0
    assert w.flatten().tolist() == pytest.approx([1 - extreme, extreme])
    w.sum().backward()
    assert z.grad is not None and z.grad.isfinite().all()


def test_anneal_is_linear_over_three_fifths_of_each_runs_steps():
    steps = torch.tensor([100, 100, 100, 100, 10], dtype=torch.float64)
    temperature = anneal(torch.tensor([0, 30, 60, 99, 3], dtype=torch.float64), steps)
    assert temperature.tolist() == pytest.approx([5.0, 2.55, 0.1, 0.1, 2.55])


Z = torch.tensor([[[0.5, -0.3, 0.2, 1.1], [0.0, 0.0, 0.0, 0.0]]], dtype=torch.float64)


def softmax(z: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in z)
    return [math.exp(v) / total for v in z]


def test_weights_of_each_router_and_normalisation():
    row = Z[0, 0].tolist()
    expected = {
        "softmax": softmax(row),
        "softmax-temperature": softmax([v / 0.5 for v in row]),  # 4**-0.5
        "sparsemax": project(row),
        "sigmoid": [1 / (1 + math.exp(-v)) for v in row],
    }
    for kind, wanted in expected.items():
        w = weights(Z, replace(SPP, normalisation=kind))
        assert w[0, 0].tolist() == pytest.approx(wanted), kind
    constant = weights(Z, replace(SPP, router="constant", normalisation="sigmoid"))
    assert constant.flatten().tolist() == [0.25] * 8


def test_relaxed_bernoulli_weights_are_draws_in_training_and_sigmoids_at_evaluation():
    shape = replace(SPP, router="relaxed-bernoulli")
    u = torch.rand(1, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([2.0])
    drawn = weights(Z, shape, training=True, temperature=t, noise=u)
    torch.testing.assert_close(drawn, relaxed_bernoulli(Z, t, u))
    torch.testing.assert_close(weights(Z, shape, temperature=t, noise=u), torch.sigmoid(Z))
    with pytest.raises(ValueError, match="noise"):
        weights(Z, shape, training=True, temperature=t)


MASK = (True, False, True, False)


@pytest.mark.parametrize("kind", ["softmax", "softmax-temperature", "sparsemax", "sigmoid"])
def test_masking_before_normalisation_is_a_router_that_never_had_the_masked(kind):
    shape = replace(SPP, normalisation=kind, tau_power=0.0)  # a tau that the count does not change
    w = weights(Z, shape, mask=Mask(MASK))
    assert (w[..., [1, 3]] == 0).all()
    fewer = weights(Z[..., [0, 2]], replace(shape, sources=2))
    torch.testing.assert_close(w[..., [0, 2]], fewer)


def test_masking_before_normalisation_keeps_the_trained_temperature_and_kind():
    w = weights(Z, replace(SPP, normalisation="softmax-temperature"), mask=Mask(MASK))
    wanted = softmax([Z[0, 0, 0].item() / 0.5, Z[0, 0, 2].item() / 0.5])
    assert w[0, 0, [0, 2]].tolist() == pytest.approx(wanted)
    auto = replace(SPP, tasks=2, normalisation="auto")
    assert auto.normaliser == "sparsemax"
    alone = weights(Z, auto, mask=Mask((True, False, False, False)))
    assert alone[0, 0].tolist() == [1.0, 0.0, 0.0, 0.0]  # one source alone is no sigmoid here


@pytest.mark.parametrize("kind", ["softmax", "softmax-temperature", "sparsemax", "sigmoid"])
def test_masking_after_normalisation_leaves_the_others_as_they_are(kind):
    shape = replace(SPP, normalisation=kind)
    w, whole = weights(Z, shape, mask=Mask(MASK, how="after")), weights(Z, shape)
    assert torch.equal(w[..., [0, 2]], whole[..., [0, 2]])
    assert (w[..., [1, 3]] == 0).all()


def test_masking_uniform_weights():
    shape = replace(SPP, router="constant")
    assert weights(Z, shape, mask=Mask(MASK))[0, 0].tolist() == [0.5, 0.0, 0.5, 0.0]
    assert weights(Z, shape, mask=Mask(MASK, how="after"))[0, 0].tolist() == [0.25, 0.0, 0.25, 0.0]


def test_masking_of_relaxed_draws():
    shape = replace(SPP, router="relaxed-bernoulli")
    u = torch.rand(1, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given = {"training": True, "temperature": torch.tensor([1.0]), "noise": u}
    whole = weights(Z, shape, **given)
    for how in ("before", "after"):
        w = weights(Z, shape, **given, mask=Mask(MASK, how=how))
        torch.testing.assert_close(w, whole * torch.tensor(MASK))


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("router", ["direct", "constant", "relaxed-bernoulli"])
def test_weights_with_everything_masked_are_zero(how, router):
    w = weights(Z, replace(SPP, router=router), mask=Mask((False,) * 4, how=how))
    assert torch.equal(w, torch.zeros_like(Z))


def test_the_private_prompt_stands_last_among_the_weights_inside():
    shape = PromptShape("inside", tasks=2, sources=3, private=True, length=2, d_model=4)
    w = weights(Z, shape, mask=Mask((True, True, True), private=False))
    assert w[0, 0, 3] == 0
    assert w[0, 0].sum().item() == pytest.approx(1)
    only = weights(Z, shape, mask=Mask((False, False, False)))
    assert only[0, 0].tolist() == [0.0, 0.0, 0.0, 1.0]


def test_a_wrong_mask_is_named():
    with pytest.raises(InputError, match="2 source prompts, but there are 4"):
        weights(Z, SPP, mask=Mask((True, False)))
    with pytest.raises(InputError, match="unknown masking 'befor'. Did you mean 'before'"):
        Mask((True,), how="befor")
    with pytest.raises(InputError, match="unknown treatment of masked tokens 'removed'. Did you mean 'remove'"):
        Mask((True,), tokens="removed")
