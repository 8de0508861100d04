"""The fleet's AdamW against torch's, run by run, and its schedule."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import get_linear_schedule_with_warmup

from compt_fast.config.choices import ENCODER_NAMES, SHARINGS
from compt_fast.prompts.compose import compose
from compt_fast.prompts.parameters import PromptBank
from compt_fast.prompts.shape import PromptShape
from compt_fast.training.optimizer import FleetAdamW, Hyperparameters, schedule

SIZES = {"a": (3, 2), "b": (5,), "c": (2, 2, 2)}
RATES = {"a": [0.1, 0.02, 0.5], "b": [0.3, 0.0, 0.01], "c": [0.05, 0.07, 0.2]}
DECAY, CLIP = [0.01, 0.3, 0.0], [1.0, 0.05, 1e6]
RUNS = 3


def wide(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def fresh(generator: torch.Generator, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {
        name: torch.randn(RUNS, *size, generator=generator, dtype=torch.float64).to(dtype)
        for name, size in SIZES.items()
    }


def step(
    optim: FleetAdamW,
    params: dict[str, Tensor],
    grads: dict[str, Tensor],
    taken: list[float],
    healthy: list[bool] | None = None,
) -> tuple[Tensor, Tensor]:
    now = Hyperparameters({name: wide(rates) for name, rates in RATES.items()}, wide(DECAY), wide(CLIP), wide(taken))
    used = [grads[name].clone() for name in params]
    return optim.step(params, used, now, torch.tensor(healthy or [True] * RUNS))


def test_every_run_takes_torchs_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    params = fresh(generator)
    optim = FleetAdamW(params)
    alone = [{n: p[r].clone().requires_grad_() for n, p in params.items()} for r in range(RUNS)]
    theirs = [
        torch.optim.AdamW(
            [{"params": [p], "lr": RATES[n][r]} for n, p in alone[r].items()],
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=DECAY[r],
        )
        for r in range(RUNS)
    ]
    for taken in range(6):
        grads = fresh(generator)
        norm, updated = step(optim, params, grads, [taken] * RUNS)
        assert updated.all()
        for r in range(RUNS):
            for n, p in alone[r].items():
                p.grad = grads[n][r].clone()
            expected = torch.nn.utils.clip_grad_norm_(alone[r].values(), CLIP[r])
            theirs[r].step()
            assert norm[r].item() == pytest.approx(expected.item(), rel=1e-12)
            for n, p in alone[r].items():
                # torch clips to clip / (norm + 1e-6), ours to clip / norm.
                torch.testing.assert_close(params[n][r], p.detach(), rtol=1e-5, atol=1e-6)
                if r == 2:  # far below its clip: no such difference
                    torch.testing.assert_close(params[n][r], p.detach(), rtol=1e-12, atol=1e-13)


def test_runs_that_entered_later_keep_their_own_count() -> None:
    generator = torch.Generator().manual_seed(1)
    params = fresh(generator)
    optim = FleetAdamW(params)
    for taken in range(3):
        step(optim, params, fresh(generator), [taken] * RUNS)
    for moments in (optim.first, optim.second):
        for name in moments:
            moments[name][1] = 0.0  # run 1 has only just entered
    old = {n: p.clone() for n, p in params.items()}
    new = {n: p.clone() for n, p in params.items()}
    aged = FleetAdamW(old)
    aged.first = {n: t.clone() for n, t in optim.first.items()}
    aged.second = {n: t.clone() for n, t in optim.second.items()}
    grads = fresh(generator)
    step(optim, params, grads, [3, 0, 3])
    step(aged, old, grads, [3, 3, 3])
    step(FleetAdamW(new), new, grads, [0, 0, 0])
    for name in SIZES:
        assert torch.equal(params[name][[0, 2]], old[name][[0, 2]])
        assert torch.equal(params[name][1], new[name][1])


@pytest.mark.parametrize("composition", ["spp", "scp", "inside"])
@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_a_bank_takes_torchs_clipped_steps(encoder: str, sharing: str, composition: str) -> None:
    """Whatever memory autograd lets the gradients of two parameters share."""
    own = "per-prompt" if encoder == "none" else sharing
    gates = "fixed" if composition == "inside" else "learned"
    shape = PromptShape(composition, 3, 2, True, 4, 6, encoder=encoder, sharing=own, gates=gates)
    bank = PromptBank.create(shape, [5], embedding=torch.randn(10, 6)).to(torch.float64)
    optim = FleetAdamW(bank.params)
    alone = {name: p.detach()[0].clone().requires_grad_() for name, p in bank.params.items()}
    theirs = torch.optim.AdamW(alone.values(), lr=0.05, weight_decay=0.01)
    clip = 0.01
    for taken in range(3):
        targets = compose(bank.params, shape, training=True).targets
        assert targets is not None
        grads = torch.autograd.grad(targets.square().sum(), list(bank.params.values()))
        for p, grad in zip(alone.values(), grads, strict=True):
            p.grad = grad[0].clone()
        now = Hyperparameters({name: wide([0.05]) for name in bank.params}, wide([0.01]), wide([clip]), wide([taken]))
        norm, _ = optim.step(bank.params, grads, now, torch.tensor([True]))
        assert norm[0] > 2 * clip
        for p in alone.values():
            assert p.grad is not None
            p.grad *= clip / norm[0]
        theirs.step()
    for name, p in alone.items():
        torch.testing.assert_close(optim.first[name][0], theirs.state[p]["exp_avg"], rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(bank.params[name][0].detach(), p.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cause", ["unhealthy", "nan", "inf"])
def test_a_run_that_is_not_finite_stays_and_spoils_no_other(cause: str) -> None:
    generator = torch.Generator().manual_seed(2)
    params, grads = fresh(generator, torch.float32), fresh(generator, torch.float32)
    clean = {n: p.clone() for n, p in params.items()}
    optim, other = FleetAdamW(params), FleetAdamW(clean)
    step(optim, params, grads, [0, 0, 0])
    step(other, clean, grads, [0, 0, 0])
    kept = {n: p[1].clone() for n, p in params.items()}
    moments = {n: (optim.first[n][1].clone(), optim.second[n][1].clone()) for n in params}
    grads = fresh(generator, torch.float32)
    step(other, clean, grads, [1, 1, 1])
    if cause != "unhealthy":
        grads["b"][1, 3] = math.nan if cause == "nan" else math.inf
    norm, updated = step(optim, params, grads, [1, 1, 1], [True, cause != "unhealthy", True])
    assert updated.tolist() == [True, False, True]
    assert norm[[0, 2]].isfinite().all()
    for name, p in params.items():
        assert torch.equal(p[[0, 2]], clean[name][[0, 2]])
        assert torch.equal(p[1], kept[name])
        assert torch.equal(optim.first[name][1], moments[name][0])
        assert torch.equal(optim.second[name][1], moments[name][1])


def test_runs_leave_and_enter() -> None:
    generator = torch.Generator().manual_seed(3)
    params = fresh(generator)
    optim = FleetAdamW(params)
    step(optim, params, fresh(generator), [0, 0, 0])
    first = {n: t.clone() for n, t in optim.first.items()}
    optim.select(torch.tensor([2, 0]))
    optim.extend({n: p[:1] for n, p in params.items()})
    for name, moments in optim.first.items():
        assert torch.equal(moments[:2], first[name][[2, 0]])
        assert not moments[2].any() and moments.shape == (3, *SIZES[name])


def test_a_parameter_with_a_gradient_of_zero_only_decays() -> None:
    params = {"a": torch.ones(1, 2, dtype=torch.float64)}
    now = Hyperparameters({"a": wide([0.5])}, wide([0.1]), wide([1.0]), wide([0]))
    FleetAdamW(params).step(params, [torch.zeros_like(params["a"])], now, torch.tensor([True]))
    assert params["a"].tolist() == [[0.95, 0.95]]


def shares(total: int, warmup: float) -> list[float]:
    steps = torch.arange(total, dtype=torch.float64)
    every = torch.full_like(steps, total), torch.full_like(steps, warmup)
    return schedule(steps, *every).tolist()


def test_the_rate_rises_and_falls_linearly() -> None:
    assert shares(10, 0.2) == pytest.approx([0.5, 1, *(k / 9 for k in range(8, 0, -1))])
    assert shares(4, 0) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert shares(1, 0) == [1.0]
    assert shares(3, 1) == pytest.approx([1 / 3, 2 / 3, 1])
    assert shares(1, 0.2) == [1.0]
    # 0.2 * 35 is a little above 7 in floating point, and seven steps are the rise.
    assert shares(35, 0.2)[6] == 1 and shares(35, 0.2)[7] < 1


def test_runs_of_other_lengths_have_their_own_schedule() -> None:
    got = schedule(wide([0, 4, 9]), wide([5, 5, 10]), wide([0.4, 0.4, 0.0]))
    assert got.tolist() == pytest.approx([0.5, 0.25, 1 / 10])


@pytest.mark.parametrize(("total", "warmup", "rise"), [(35, 0.2, 7), (10, 0.25, 3), (10, 0, 1), (3, 1, 3), (1, 0, 1)])
def test_the_schedule_is_that_of_transformers_one_step_later(total: int, warmup: float, rise: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, rise, total + 1).lr_lambdas[0]
    assert shares(total, warmup) == [theirs(step + 1) for step in range(total)]


def test_a_clipped_gradient_has_the_norm_that_was_asked_for() -> None:
    """torch's has `clip norm / (norm + 1e-6)`."""
    values, clip = torch.tensor([3e-4, 4e-4], dtype=torch.float64), 1e-4
    params = {"a": torch.zeros(1, 2, dtype=torch.float64)}
    optim = FleetAdamW(params)
    now = Hyperparameters({"a": wide([0.1])}, wide([0]), wide([clip]), wide([0]))
    norm, _ = optim.step(params, [values[None].clone()], now, torch.tensor([True]))
    clipped = optim.first["a"][0] / 0.1
    assert float(norm[0]) == pytest.approx(5e-4) and float(clipped.norm()) == pytest.approx(clip, rel=1e-6)
    theirs = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    theirs.grad = values.clone()
    torch.nn.utils.clip_grad_norm_([theirs], clip)
    torch.testing.assert_close(clipped, theirs.grad * (5e-4 + 1e-6) / 5e-4, rtol=1e-6, atol=0)
