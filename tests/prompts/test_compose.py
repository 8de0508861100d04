"""`compose` against the papers' formulas, written as loops over runs, tasks, prompts and tokens."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from compt_fast.config.choices import ENCODER_NAMES, GATE_NAMES, NORMALISATION_NAMES, SHARINGS
from compt_fast.prompts.compose import compose, compose_rows
from compt_fast.prompts.parameters import PromptBank, rate_groups
from compt_fast.prompts.routing import Mask
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError
from tests.helpers.compositions import texts_of

R, T, M, D = 2, 3, 2, 4
SPP = PromptShape("spp", tasks=T, sources=2, private=True, length=M, d_model=D, encoder="linear")
SCP = replace(SPP, composition="scp", sharing="per-role")
PT = replace(SPP, composition="pt", sources=0)
MST = replace(SPP, composition="mst", sources=1, private=False)
INSIDE = replace(SPP, composition="inside", sources=3, sharing="shared")
SHARED_ONLY = replace(INSIDE, private=False)
ROWS = torch.randn(30, D, generator=torch.Generator().manual_seed(0))


def name(shape: PromptShape) -> str:
    parts = (shape.composition, shape.sources, shape.private, shape.encoder, shape.sharing)
    return "-".join(map(str, (*parts, shape.router, shape.normalisation, shape.gates)))


def bank_of(shape: PromptShape, runs: int = R) -> PromptBank:
    """A float64 bank with a router and gates as if trained."""
    bank = PromptBank.create(shape, list(range(runs)), embedding=ROWS[:, : shape.d_model]).to(torch.float64)
    generator = torch.Generator().manual_seed(7)
    groups = rate_groups(shape)
    with torch.no_grad():
        for name, p in bank.params.items():
            if groups[name] == "router":
                p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return bank


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def normalised(kind: str, z: list[float], tau: float) -> list[float]:
    if kind == "sigmoid":
        return [sigmoid(v) for v in z]
    if kind == "sparsemax":
        for size in range(len(z), 0, -1):  # the largest support that keeps its entries positive
            top = sorted(z, reverse=True)[:size]
            threshold = (sum(top) - 1) / size
            if top[-1] > threshold:
                return [max(v - threshold, 0.0) for v in z]
    scale = tau if kind == "softmax-temperature" else 1.0
    total = sum(math.exp(v / scale) for v in z)
    return [math.exp(v / scale) / total for v in z]


class Loops:
    """The formulas for one run r and task t of a bank whose encoder is linear or none."""

    def __init__(self, bank: PromptBank, r: int, t: int, mask: Mask | None = None) -> None:
        self.shape, self.r, self.t, self.mask = bank.shape, r, t, mask
        self.params = {name: p.detach() for name, p in bank.params.items()}

    def prompt(self, role: str, p: int) -> list[list[float]]:
        """enc(E[p])"""
        tokens = self.params[f"{role}_tokens"][self.r, p].tolist()
        if self.shape.encoder == "none":
            return tokens
        both = self.shape.sharing == "shared" and self.shape.sources and self.shape.private
        k = p if self.shape.sharing == "per-prompt" else 0
        prefix = "shared_encoder" if both else f"{role}_encoder"
        weight = self.params[f"{prefix}.out.weight"][self.r, k].tolist()
        bias = self.params[f"{prefix}.out.bias"][self.r, k].tolist()
        return [[sum(weight[o][i] * token[i] for i in range(D)) + bias[o] for o in range(D)] for token in tokens]

    def on(self) -> list[bool]:
        """Which of the weights' prompts are not masked."""
        inside = self.shape.composition == "inside" and self.shape.private
        sources = list(self.mask.sources) if self.mask else [True] * self.shape.sources
        return sources + ([self.mask.private if self.mask else True] if inside else [])

    def weights(self, temperature: float = 0.0, noise: list[float] | None = None) -> list[float]:
        on = self.on()
        before = self.mask is not None and self.mask.how == "before"
        among = [i for i in range(len(on)) if on[i] or not before]
        shape = self.shape
        if shape.composition == "mst" or shape.router == "constant":
            found = [1 / len(among)] * len(among) if among else []
        else:
            z = [self.params["router"][self.r, self.t, i].item() for i in among]
            if noise is not None:
                odds = [math.log(noise[i] / (1 - noise[i])) for i in among]
                found = [sigmoid((a + b) / temperature) for a, b in zip(z, odds, strict=True)]
            else:
                tau = max(0.1, shape.sources**-0.5)
                found = normalised(shape.normaliser, z, tau) if among else []
        w = [0.0] * len(on)
        for i, value in zip(among, found, strict=True):
            w[i] = value if on[i] else 0.0
        return w

    def gates(self, mean: list[float] | None = None) -> tuple[float, float]:
        if self.shape.gates == "fixed":
            return 1.0, 1.0
        if self.shape.gates == "input":
            assert mean is not None
            weight = self.params["gates.weight"][self.r].tolist()
            bias = self.params["gates.bias"][self.r].tolist()
            a, b = (sum(weight[g][e] * mean[e] for e in range(D)) + bias[g] for g in (0, 1))
            return sigmoid(a), sigmoid(b)
        logits = self.params["gates"][self.r, 0 if self.shape.gates == "learned-global" else self.t]
        alpha = sigmoid(logits[0].item())
        return alpha, 1 - alpha if self.shape.gates == "tied" else sigmoid(logits[1].item())

    def target(
        self,
        mean: list[float] | None = None,
        temperature: float = 0.0,
        noise: list[float] | None = None,
    ) -> Tensor:
        shape = self.shape
        zero = [[0.0] * D for _ in range(M)]
        w = self.weights(temperature, noise) if shape.sources else []
        mixture = zero
        for i in range(shape.sources):
            source = self.prompt("source", i)
            mixture = [[mixture[k][e] + w[i] * source[k][e] for e in range(D)] for k in range(M)]
        private = self.prompt("private", self.t) if shape.private else zero
        if self.mask and not self.mask.private:
            private = zero
        if shape.composition == "pt":
            rows = private
        elif shape.composition == "mst":
            rows = mixture
        elif shape.composition == "inside":
            own = w[-1] if shape.private else 0.0
            rows = [[mixture[k][e] + own * private[k][e] for e in range(D)] for k in range(M)]
        else:
            alpha, beta = self.gates(mean)
            scaled = [[beta * v for v in token] for token in mixture]
            owned = [[alpha * v for v in token] for token in private]
            rows = scaled + owned
            if shape.composition == "spp":
                rows = [[owned[k][e] + scaled[k][e] for e in range(D)] for k in range(M)]
        return torch.tensor(rows, dtype=torch.float64)


def check(shape: PromptShape, mask: Mask | None = None) -> None:
    bank = bank_of(shape)
    composition = compose(bank.params, shape, mask=mask)
    assert composition.targets is not None
    assert composition.targets.shape == (R, T, shape.target_length, D)
    for r, t in itertools.product(range(R), range(T)):
        loops = Loops(bank, r, t, mask)
        torch.testing.assert_close(composition.targets[r, t], loops.target(), rtol=0, atol=1e-12)
        if composition.weights is not None:
            assert composition.weights[r, t].tolist() == pytest.approx(loops.weights(), abs=1e-12)


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("shape", [SPP, SCP, PT, MST, INSIDE, SHARED_ONLY], ids=name)
def test_every_composition_and_sharing(shape, sharing):
    check(replace(shape, sharing=sharing))
    check(replace(shape, sharing=sharing, encoder="none"))


@pytest.mark.parametrize("normalisation", NORMALISATION_NAMES)
@pytest.mark.parametrize("sources", [1, 2, 5])
@pytest.mark.parametrize("shape", [SPP, SCP, INSIDE, SHARED_ONLY], ids=name)
def test_every_normalisation(shape, sources, normalisation):
    check(replace(shape, sources=sources, normalisation=normalisation, encoder="none"))


@pytest.mark.parametrize("router", ["constant", "relaxed-bernoulli"])
@pytest.mark.parametrize("shape", [SPP, SCP, INSIDE, SHARED_ONLY], ids=name)
def test_other_routers_at_evaluation(shape, router):
    check(replace(shape, router=router))


@pytest.mark.parametrize("gates", [g for g in GATE_NAMES if g != "input"])
@pytest.mark.parametrize("shape", [SPP, SCP], ids=name)
def test_every_gate(shape, gates):
    check(replace(shape, gates=gates))


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("normalisation", [n for n in NORMALISATION_NAMES if n != "auto"])
@pytest.mark.parametrize("shape", [SPP, SCP, INSIDE, SHARED_ONLY], ids=name)
def test_every_mask(shape, normalisation, how):
    shape = replace(shape, normalisation=normalisation, encoder="none")
    for sources in itertools.product([True, False], repeat=shape.sources):
        for private in (True, False):
            check(shape, Mask(sources, private=private, how=how))


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("shape", [PT, MST, replace(SPP, router="constant")], ids=name)
def test_masks_without_a_learned_router(shape, how):
    for sources in itertools.product([True, False], repeat=shape.sources):
        for private in (True, False):
            check(shape, Mask(sources, private=private, how=how))


def test_what_is_masked_is_zero_and_keeps_its_place():
    params = bank_of(SCP).params
    whole = compose(params, SCP).targets
    none = compose(params, SCP, mask=Mask((False, False), private=False))
    no_private = compose(params, SCP, mask=Mask((True, True), private=False))
    no_sources = compose(params, SCP, mask=Mask((False, False))).targets
    assert whole is not None and none.targets is not None
    assert none.targets.shape == whole.shape and not none.targets.any()
    assert no_private.targets is not None and no_sources is not None
    assert torch.equal(no_private.targets[:, :, :M], whole[:, :, :M])
    assert not no_private.targets[:, :, M:].any()
    assert no_private.privates is not None and not no_private.privates.any()
    assert torch.equal(no_sources[:, :, M:], whole[:, :, M:])
    assert not no_sources[:, :, :M].any()


@pytest.mark.parametrize("gates", ["learned", "input"])
def test_a_masked_half_can_be_removed_with_its_tokens(gates):
    shape = replace(SCP, gates=gates)
    params = bank_of(shape).params

    def targets(mask):
        composition = compose(params, shape, mask=mask)
        if gates == "input":
            means = torch.randn(5, D, generator=torch.Generator().manual_seed(3))
            return compose_rows(composition, params, shape, RUNS, TASKS, texts_of(means))
        return composition.targets

    whole = targets(None)
    no_private = targets(Mask((True, True), private=False, tokens="remove"))
    no_sources = targets(Mask((False, False), tokens="remove"))
    assert torch.equal(no_private, whole[..., :M, :]) and torch.equal(no_sources, whole[..., M:, :])
    one = Mask((True, False), tokens="remove")
    assert torch.equal(targets(one), targets(replace(one, tokens="zero"))), "some of a half is no half"
    mask = Mask((True, True), private=False, tokens="remove")
    zeros = compose(bank_of(SPP).params, SPP, mask=replace(mask, tokens="zero")).targets
    assert torch.equal(compose(bank_of(SPP).params, SPP, mask=mask).targets, zeros), "a sum has no halves"


@pytest.mark.parametrize("shape", [SPP, PT], ids=name)
def test_a_mask_of_another_number_of_sources_is_named(shape):
    with pytest.raises(InputError, match=f"3 source prompts, but there are {shape.sources}"):
        compose(bank_of(shape).params, shape, mask=Mask((True, True, False)))


@pytest.mark.parametrize("shape", [SPP, SCP, INSIDE], ids=name)
def test_relaxed_bernoulli_in_training(shape):
    shape = replace(shape, router="relaxed-bernoulli")
    bank = bank_of(shape)
    noise = torch.rand(R, T, shape.n_weights, generator=torch.Generator().manual_seed(2))
    temperature = torch.tensor([3.0, 0.4], dtype=torch.float64)
    targets = compose(bank.params, shape, training=True, temperature=temperature, noise=noise).targets
    assert targets is not None
    for r, t in itertools.product(range(R), range(T)):
        wanted = Loops(bank, r, t).target(temperature=temperature[r].item(), noise=noise[r, t].tolist())
        torch.testing.assert_close(targets[r, t], wanted, rtol=0, atol=1e-12)


RUNS, TASKS = torch.tensor([1, 0, 1, 1, 0]), torch.tensor([2, 0, 0, 2, 1])


@pytest.mark.parametrize("mask", [None, Mask((True, False)), Mask((True, True), private=False)])
@pytest.mark.parametrize("shape", [SPP, SCP], ids=name)
def test_input_gates(shape, mask):
    shape = replace(shape, gates="input")
    bank = bank_of(shape)
    composition = compose(bank.params, shape, mask=mask)
    assert composition.targets is None and composition.gates is None
    means = torch.randn(5, D, generator=torch.Generator().manual_seed(3))
    rows = compose_rows(composition, bank.params, shape, RUNS, TASKS, texts_of(means))
    assert rows.shape == (5, shape.target_length, D)
    for b in range(5):
        loops = Loops(bank, int(RUNS[b]), int(TASKS[b]), mask)
        wanted = loops.target(mean=means[b].tolist())
        torch.testing.assert_close(rows[b], wanted, rtol=0, atol=1e-12)


def test_input_gates_start_at_one_half_whatever_the_input():
    shape = replace(SPP, gates="input")
    bank = PromptBank.create(shape, [0, 1], embedding=ROWS[:, : shape.d_model])
    composition = compose(bank.params, shape)
    rows = compose_rows(composition, bank.params, shape, RUNS, TASKS, texts_of(torch.randn(5, D)))
    fixed = compose(bank.params, replace(shape, gates="fixed")).targets
    assert fixed is not None
    torch.testing.assert_close(rows, fixed[RUNS, TASKS] / 2)


def test_rows_of_what_depends_on_no_input_are_refused():
    bank = bank_of(SPP)
    with pytest.raises(ValueError, match="nothing of this shape depends on the input"):
        compose_rows(compose(bank.params, SPP), bank.params, SPP, RUNS, TASKS, texts_of(torch.zeros(5, D)))


def outputs(params: dict[str, Tensor], shape: PromptShape) -> Tensor:
    """The targets of each run, (R, ..., L, d), in training and with any kind of gates."""
    runs = len(next(iter(params.values())))
    generator = torch.Generator().manual_seed(4)
    noise = torch.rand(shape.tasks, shape.n_weights, generator=generator).expand(runs, -1, -1)
    composition = compose(params, shape, training=True, temperature=torch.full((runs,), 0.7), noise=noise)
    if composition.targets is not None:
        return composition.targets
    slots = torch.cartesian_prod(torch.arange(runs), torch.arange(shape.tasks))
    means = torch.randn(shape.tasks, shape.d_model, generator=generator).repeat(runs, 1)
    rows = compose_rows(composition, params, shape, slots[:, 0], slots[:, 1], texts_of(means))
    return rows.view(runs, shape.tasks, shape.target_length, shape.d_model)


VARIETY = [
    *(replace(SPP, encoder=encoder, sharing=s) for encoder in ENCODER_NAMES for s in SHARINGS),
    *(replace(shape, gates=gates) for shape in (SPP, SCP) for gates in GATE_NAMES),
    *(replace(SPP, normalisation=n) for n in NORMALISATION_NAMES),
    replace(SPP, router="constant"),
    replace(SPP, router="relaxed-bernoulli"),
    replace(SPP, sources=1),
    *(PT, MST, INSIDE, SHARED_ONLY, replace(INSIDE, sources=1)),
]


@pytest.mark.parametrize("shape", VARIETY, ids=name)
def test_gradients_reach_every_parameter_of_every_run(shape):
    bank = PromptBank.create(shape, [0, 1], embedding=ROWS[:, : shape.d_model])
    found = outputs(bank.params, shape)
    found.backward(torch.randn(found.shape, generator=torch.Generator().manual_seed(5)))
    for name, p in bank.params.items():
        assert p.grad is not None and p.grad.isfinite().all(), name
        assert (p.grad.flatten(2).abs().amax(-1) > 0).all() if p.dim() > 2 else p.grad.all(), name


def test_the_router_of_a_single_candidate_learns_nothing():
    shape = replace(SHARED_ONLY, sources=1)
    bank = PromptBank.create(shape, [0], embedding=ROWS[:, : shape.d_model])
    composition = compose(bank.params, shape)
    assert composition.targets is not None and composition.weights is not None
    assert (composition.weights == 1).all()
    composition.targets.sum().backward()
    assert bank.params["router"].grad is not None and not bank.params["router"].grad.any()


@pytest.mark.parametrize("shape", [s for s in VARIETY if s.encoder != "lstm"], ids=name)
def test_gradcheck(shape):
    small = replace(shape, tasks=2, d_model=2, hidden=0, length=1)
    bank = bank_of(small, runs=1)

    def targets(*values: Tensor) -> Tensor:
        return outputs(dict(zip(bank.params, values, strict=True)), small)

    assert torch.autograd.gradcheck(targets, tuple(bank.params.values()))


@pytest.mark.parametrize("shape", VARIETY, ids=name)
def test_runs_together_equal_each_alone(shape):
    together = bank_of(shape, runs=3)
    found = outputs(together.params, shape)
    direction = torch.randn(found.shape[1:], generator=torch.Generator().manual_seed(6)).double()
    scales = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (found * direction * scales[:, None, None, None]).sum().backward()
    for r in range(3):
        alone = together.select([r])
        own = outputs(alone.params, shape)
        torch.testing.assert_close(own[0], found[r].detach(), rtol=0, atol=1e-12)
        (own[0] * direction * scales[r]).sum().backward()
        for name, p in together.params.items():
            assert p.grad is not None
            torch.testing.assert_close(alone.params[name].grad[0], p.grad[r], rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", VARIETY, ids=name)
def test_a_run_of_nan_leaves_the_others_as_they_are(shape):
    bank = PromptBank.create(shape, [0, 1], embedding=ROWS[:, : shape.d_model])
    sound = outputs(bank.select([1]).params, shape)
    with torch.no_grad():
        for p in bank.params.values():
            p[0] = float("nan")
    found = outputs(bank.params, shape)
    torch.testing.assert_close(found[1], sound[0])
    found.sum().backward()
    for name, p in bank.params.items():
        assert p.grad is not None and p.grad[1].isfinite().all(), name


@pytest.mark.parametrize("shape", [SPP, SCP, INSIDE], ids=name)
def test_dtype_follows_the_parameters(shape):
    for dtype in (torch.float32, torch.float64):
        params = PromptBank.create(shape, [0]).to(dtype).params
        composition = compose(params, shape)
        for part in ("targets", "sources", "privates", "weights"):
            assert getattr(composition, part).dtype == dtype
