from dataclasses import asdict, replace

import pytest

from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError

SPP = PromptShape("spp", tasks=8, sources=3, private=True, length=5, d_model=12)
PT = PromptShape("pt", tasks=8, sources=0, private=True, length=5, d_model=12)
MST = PromptShape("mst", tasks=8, sources=1, private=False, length=5, d_model=12)
SLPN = PromptShape(
    "inside",
    tasks=8,
    sources=8,
    private=True,
    length=10,
    d_model=12,
    encoder="linear",
    sharing="shared",
    normalisation="softmax-temperature",
)


@pytest.mark.parametrize(
    ("shape", "change", "says"),
    [
        (SPP, {"composition": "ssp"}, "unknown composition 'ssp'. Did you mean 'spp'"),
        (SPP, {"encoder": "mpl"}, "unknown prompt encoder 'mpl'. Did you mean 'mlp'"),
        (SPP, {"sharing": "per-promt"}, "Did you mean 'per-prompt'"),
        (SPP, {"router": "learned"}, "unknown router 'learned'"),
        (SPP, {"normalisation": "sparse-max"}, "Did you mean 'sparsemax'"),
        (SPP, {"gates": "learnt"}, "Did you mean 'learned'"),
        (SPP, {"tasks": 0}, "number of tasks is 0"),
        (SPP, {"length": 0}, "prompt length is 0"),
        (SPP, {"d_model": -1}, "d_model is -1"),
        (SPP, {"hidden": -1}, "hidden size is -1"),
        (SPP, {"encoded": "privat"}, "Did you mean 'private'"),
        (SPP, {"encoded": "private", "encoder": "none"}, "leave it at 'both'"),
        (PT, {"encoded": "private"}, "leave it at 'both'"),
        (MST, {"encoded": "source"}, "leave it at 'both'"),
        (SPP, {"sources": 0}, "spp mixes sources: sources must be at least 1, not 0"),
        (SPP, {"private": False}, "spp needs private prompts"),
        (SPP, {"tau_min": 0.0}, "tau_min is 0.0"),
        (SPP, {"tau0": float("nan")}, "tau0 is nan"),
        (SPP, {"tau_power": -0.5}, "tau_power is -0.5"),
        (SPP, {"encoder": "lstm", "d_model": 11}, "d_model 11 is odd"),
        (
            SPP,
            {"router": "relaxed-bernoulli", "normalisation": "softmax"},
            "normalisation must be 'auto' or 'sigmoid', not 'softmax'",
        ),
        (PT, {"sources": 1}, "pt has no source prompts"),
        (PT, {"private": False}, "pt needs private prompts"),
        (PT, {"gates": "tied"}, "pt has no gates"),
        (PT, {"router": "constant"}, "pt has no source weights"),
        (MST, {"sources": 2}, "mst shares one source prompt"),
        (MST, {"private": True}, "mst has no private prompts"),
        (MST, {"normalisation": "sparsemax"}, "mst has no source weights"),
        (SLPN, {"gates": "learned"}, "inside has no gates"),
        (SLPN, {"sources": 0}, "inside mixes sources"),
    ],
)
def test_what_does_not_go_together_is_named(shape, change, says):
    with pytest.raises(InputError) as error:
        replace(shape, **change)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("tasks", "sources", "expected"),
    [
        (8, 1, "sigmoid"),
        (1, 1, "sigmoid"),
        (8, 2, "softmax"),
        (8, 4, "softmax"),
        (8, 5, "sparsemax"),
        (7, 3, "softmax"),
        (7, 4, "sparsemax"),
        (2, 2, "sparsemax"),
    ],
)
@pytest.mark.parametrize("composition", ["spp", "scp"])
def test_auto_normalisation_follows_sources_and_tasks(composition, tasks, sources, expected):
    shape = replace(SPP, composition=composition, tasks=tasks, sources=sources)
    assert shape.normaliser == expected


def test_auto_normalisation_elsewhere():
    assert replace(SLPN, normalisation="auto").normaliser == "softmax-temperature"
    assert replace(SPP, router="relaxed-bernoulli").normaliser == "sigmoid"
    assert replace(SPP, normalisation="sparsemax").normaliser == "sparsemax"


def test_temperature_falls_with_the_sources_down_to_its_floor():
    assert replace(SLPN, sources=1).tau == 1.0
    assert replace(SLPN, sources=4).tau == 0.5
    assert replace(SLPN, sources=101).tau == 0.1
    assert replace(SLPN, sources=4, tau0=2.0, tau_power=1.0).tau == 0.5


def test_sizes():
    assert (SPP.target_length, replace(SPP, composition="scp").target_length) == (5, 10)
    assert [s.n_weights for s in (SPP, PT, MST, SLPN)] == [3, 0, 1, 9]
    assert replace(SLPN, private=False).n_weights == 8
    assert (SPP.prompts("source"), SPP.prompts("private")) == (3, 8)
    assert (PT.prompts("source"), MST.prompts("private")) == (0, 0)
    with pytest.raises(ValueError, match="role"):
        SPP.prompts("target")


def test_equal_models_have_equal_shapes():
    assert replace(SPP, hidden=12) == SPP
    assert replace(SPP, hidden=7) != SPP
    assert replace(SLPN, hidden=12) == SLPN
    assert PromptShape(**asdict(SLPN)) == SLPN
