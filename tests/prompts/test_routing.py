import math
from dataclasses import replace

import pytest
import torch

from compt_fast.prompts.normalisations.sparsemax import sparsemax
from compt_fast.prompts.routers.relaxed_bernoulli import relaxed_bernoulli
from compt_fast.prompts.routing import Mask, weights
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError

SPP = PromptShape("spp", tasks=2, sources=4, private=True, length=2, d_model=4)
Z = torch.tensor([[[0.5, -0.3, 0.2, 1.1], [0.0, 0.0, 0.0, 0.0]]], dtype=torch.float64)


def softmax(z: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in z)
    return [math.exp(v) / total for v in z]


def test_weights_of_each_router_and_normalisation():
    row = Z[0, 0].tolist()
    expected = {
        "softmax": softmax(row),
        "softmax-temperature": softmax([v / 0.5 for v in row]),  # 4**-0.5
        "sparsemax": sparsemax(Z)[0, 0].tolist(),
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
