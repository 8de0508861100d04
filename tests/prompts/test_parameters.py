import itertools
import math
from dataclasses import replace

import pytest
import torch

from compt_fast.config.choices import ENCODER_NAMES, GATE_NAMES, SHARINGS
from compt_fast.prompts.parameters import PromptBank, parameter_count, parameter_shapes, rate_groups
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError

T, D = 8, 12
SPP = PromptShape("spp", tasks=T, sources=3, private=True, length=5, d_model=D, encoder="mlp", gates="learned")
SLPN = PromptShape(
    "inside",
    tasks=T,
    sources=T,
    private=True,
    length=10,
    d_model=D,
    encoder="linear",
    sharing="shared",
    normalisation="softmax-temperature",
)
PRESETS = {
    "spp": SPP,
    "scp": replace(SPP, composition="scp"),
    "pt": replace(SPP, composition="pt", sources=0, gates="fixed"),
    "mst": replace(SPP, composition="mst", sources=1, private=False, gates="fixed"),
    "p": PromptShape("pt", T, 0, True, 10, D, encoder="linear"),
    "sl": replace(SLPN, sources=1, private=False),
    "slp": replace(SLPN, sources=1),
    "sln": replace(SLPN, private=False),
    "slpn": SLPN,
}
MLP, LINEAR = 2 * D * D + 2 * D, D * D + D
COUNTS = {
    "spp": (3 + T) * (5 * D + MLP) + T * 3 + T * 2,
    "scp": (3 + T) * (5 * D + MLP) + T * 3 + T * 2,
    "pt": T * (5 * D + MLP),
    "mst": 5 * D + MLP,
    "p": T * (10 * D + LINEAR),
    "sl": 1 * 10 * D + LINEAR + T * 1,
    "slp": (1 + T) * 10 * D + LINEAR + T * 2,
    "sln": T * 10 * D + LINEAR + T * T,
    "slpn": (T + T) * 10 * D + LINEAR + T * (T + 1),
}
MLP_NAMES = ["hidden.weight", "hidden.bias", "out.weight", "out.bias"]


@pytest.mark.parametrize("name", PRESETS)
def test_parameter_count_of_every_preset(name):
    bank = PromptBank.create(PRESETS[name], [0, 1])
    assert parameter_count(bank.shape) == COUNTS[name]
    assert sum(p.numel() for p in bank.params.values()) == 2 * COUNTS[name]


def test_parameter_shapes_of_the_presets():
    spp = {
        "source_tokens": (3, 5, D),
        "private_tokens": (T, 5, D),
        **{f"source_encoder.{n}": (3, *s) for n, s in zip(MLP_NAMES, _mlp(D), strict=True)},
        **{f"private_encoder.{n}": (T, *s) for n, s in zip(MLP_NAMES, _mlp(D), strict=True)},
        "router": (T, 3),
        "gates": (T, 2),
    }
    assert parameter_shapes(SPP) == spp
    assert parameter_shapes(SLPN) == {
        "source_tokens": (T, 10, D),
        "private_tokens": (T, 10, D),
        "shared_encoder.out.weight": (1, D, D),
        "shared_encoder.out.bias": (1, D),
        "router": (T, T + 1),
    }
    assert set(parameter_shapes(PRESETS["mst"])) == {
        "source_tokens",
        *(f"source_encoder.{n}" for n in MLP_NAMES),
    }


def _mlp(h: int) -> list[tuple[int, ...]]:
    return [(h, D), (h,), (D, h), (D,)]


def test_parameter_shapes_by_sharing_hidden_size_and_encoder():
    per_role = parameter_shapes(replace(SPP, sharing="per-role", hidden=7))
    for role in ("source", "private"):
        found = [per_role[f"{role}_encoder.{n}"] for n in MLP_NAMES]
        assert found == [(1, *size) for size in _mlp(7)]
    lstm = PromptBank.create(replace(SPP, encoder="lstm", sharing="shared"), [0])
    torchs = torch.nn.LSTM(D, D // 2, num_layers=2, bidirectional=True)
    for name, parameter in torchs.named_parameters():
        assert lstm.params[f"shared_encoder.lstm.{name}"].shape == (1, 1, *parameter.shape)
    none = parameter_shapes(replace(SPP, encoder="none"))
    assert list(none) == ["source_tokens", "private_tokens", "router", "gates"]


def test_parameter_shapes_of_router_and_gates():
    assert "router" not in parameter_shapes(replace(SPP, router="constant"))
    assert parameter_shapes(replace(SPP, router="relaxed-bernoulli"))["router"] == (T, 3)
    found = {
        gates: {
            name: size for name, size in parameter_shapes(replace(SPP, gates=gates)).items() if name.startswith("gates")
        }
        for gates in GATE_NAMES
    }
    assert found == {
        "fixed": {},
        "learned": {"gates": (T, 2)},
        "learned-global": {"gates": (1, 2)},
        "tied": {"gates": (T, 1)},
        "input": {"gates.weight": (2, D), "gates.bias": (2,)},
    }


def test_learning_rate_groups():
    for encoder, sharing, gates in itertools.product(ENCODER_NAMES, SHARINGS, GATE_NAMES):
        shape = replace(SPP, encoder=encoder, sharing=sharing, gates=gates)
        for name, group in rate_groups(shape).items():
            role, _, part = name.partition("_")
            expected = {"tokens": role}.get(part, name.split(".")[0] if "encoder" in part else "router")
            assert group == expected
    shared_pt = replace(PRESETS["pt"], sharing="shared")
    assert set(rate_groups(shared_pt).values()) == {"private", "private_encoder"}


def test_tasks_that_are_trained_apart_start_from_values_of_their_own():
    def start(task: str | None) -> dict[str, torch.Tensor]:
        return PromptBank.create(replace(PRESETS["pt"], tasks=1), [3], task=task).params

    rte, again, cola = start("rte"), start("rte"), start("cola")
    assert all(torch.equal(rte[name], again[name]) for name in rte)
    assert not any(torch.equal(rte[name], cola[name]) for name in rte)


@pytest.mark.parametrize("encoder", ["mlp", "linear", "lstm"])
def test_initial_values(encoder):
    bank = PromptBank.create(replace(SPP, encoder=encoder, d_model=64, hidden=16), [3])
    groups = rate_groups(bank.shape)
    for name, p in bank.params.items():
        assert p.dtype == torch.float32 and p.is_leaf and p.requires_grad
        low, high = p.min().item(), p.max().item()
        if groups[name] == "router":
            assert low == high == 0
            continue
        fan_in = 16 if ".out." in name and encoder != "linear" else 64
        bound = 1 / math.sqrt(32 if ".lstm." in name else fan_in)
        if name.endswith("_tokens"):
            bound = 0.5
        assert -bound <= low < -0.9 * bound and 0.9 * bound < high <= bound, name
        assert abs(p.mean().item()) < 5 * bound / math.sqrt(3 * p.numel()), name


def test_initial_range():
    tokens = PromptBank.create(SPP, [0], init_range=10.0).params["source_tokens"]
    half = PromptBank.create(SPP, [0]).params["source_tokens"]
    torch.testing.assert_close(tokens, 20 * half)


def test_vocab_draws_rows_of_the_first_5000_without_the_special_ones():
    ids = torch.arange(6000.0)
    shape = replace(SPP, tasks=200)
    bank = PromptBank.create(shape, [0], init="vocab", embedding=ids[:, None].repeat(1, D).double())
    tokens = torch.cat([bank.params[f"{role}_tokens"].flatten() for role in ("source", "private")])
    rows = tokens.view(-1, D)
    assert (rows == rows[:, :1]).all() and tokens.dtype == torch.float32
    assert rows.min() >= 3 and rows.max() < 5000 and rows.max() > 4900
    assert len(rows[:, 0].unique()) > 800  # of 1015 draws from 4997


def test_vocab_of_a_small_vocabulary_uses_what_is_there():
    embedding = torch.arange(5.0)[:, None].repeat(1, D)
    tokens = PromptBank.create(SPP, [0], init="vocab", embedding=embedding).params["private_tokens"]
    assert set(tokens.unique().tolist()) == {3.0, 4.0}


@pytest.mark.parametrize("init", ["uniform", "vocab"])
def test_a_runs_values_depend_on_its_own_seed_only(init):
    embedding = torch.randn(50, D, generator=torch.Generator().manual_seed(0))

    def create(seeds: list[int], shape: PromptShape = SPP) -> PromptBank:
        return PromptBank.create(shape, seeds, init=init, embedding=embedding)

    together = create([5, 0, 5])
    for i, seed in enumerate([5, 0, 5]):
        alone = create([seed])
        for name, p in together.params.items():
            assert torch.equal(p[i], alone.params[name][0]), name
    assert not torch.equal(together.params["source_tokens"][0], together.params["source_tokens"][1])
    more, pt = create([5], replace(SPP, sources=4)), create([5], PRESETS["pt"])
    for other in (more, pt):
        for name in ("private_tokens", "private_encoder.hidden.weight"):
            assert torch.equal(other.params[name][0], together.params[name][0])


def test_prompts_and_layers_of_a_run_differ():
    bank = PromptBank.create(SPP, [0])
    tokens = torch.cat([bank.params["source_tokens"][0], bank.params["private_tokens"][0]])
    assert len(tokens.flatten(1).unique(dim=0)) == 3 + T
    hidden, out = (bank.params[f"source_encoder.{n}.weight"][0] for n in ("hidden", "out"))
    assert len(torch.cat([hidden, out]).flatten(1).unique(dim=0)) == 6


def test_select_and_concat():
    bank = PromptBank.create(SPP, [0, 1, 2])
    chosen = bank.select([2, 0])
    assert (bank.runs, chosen.runs) == (3, 2)
    back = PromptBank.concat([chosen, bank.select([1])])
    for name, p in bank.params.items():
        assert torch.equal(back.params[name], p[[2, 0, 1]])
        assert back.params[name].is_leaf and back.params[name].requires_grad
        assert back.params[name].grad is None
    with torch.no_grad():
        chosen.params["source_tokens"].zero_()
    assert bank.params["source_tokens"].abs().max() > 0
    with pytest.raises(ValueError, match="shapes"):
        PromptBank.concat([bank, PromptBank.create(replace(SPP, sources=4), [0])])


def test_another_dtype():
    bank = PromptBank.create(SPP, [0])
    double = bank.to(torch.float64)
    for name, p in bank.params.items():
        assert double.params[name].dtype == torch.float64 and double.params[name].is_leaf
        assert torch.equal(double.params[name], p.double())
    copy = bank.to(torch.float32)
    assert copy.params["router"].data_ptr() != bank.params["router"].data_ptr()


def test_tensors_that_do_not_fit_are_named():
    params = {name: p.detach() for name, p in PromptBank.create(SPP, [0, 1]).params.items()}
    cases = [
        ({n: p for n, p in params.items() if n != "gates"}, "tensor 'gates' is missing"),
        (params | {"gate": params["gates"]}, "'gate'. Did you mean 'gates'"),
        (params | {"router": params["router"][..., :2]}, r"'router' is \(2, 8, 2\); of 2 runs"),
        (params | {"router": params["router"][:1]}, r"it must be \(2, 8, 3\)"),
        (params | {"gates": torch.tensor(0.0)}, r"'gates' is \(\); of 2 runs"),
    ]
    for wrong, says in cases:
        with pytest.raises(InputError, match=says):
            PromptBank(SPP, wrong)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"init": "vocabulary"}, "unknown initialisation 'vocabulary'. Did you mean 'vocab'"),
        ({"init_range": 0.0}, "initial range is 0.0"),
        ({"init_range": float("inf")}, "initial range is inf"),
        ({"init": "vocab"}, "needs the trunk's embedding"),
        ({"init": "vocab", "embedding": torch.zeros(9, 13)}, r"is \(9, 13\), .*\(vocabulary, 12\)"),
        ({"init": "vocab", "embedding": torch.zeros(3, D)}, "has 3 rows"),
    ],
)
def test_bad_initialisations_are_named(options, says):
    with pytest.raises(InputError, match=says):
        PromptBank.create(SPP, [0], **options)
