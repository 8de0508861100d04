"""Runs of one shape in training, stacked along the run axis."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from compt_fast.config.flags import read_flags
from compt_fast.prompts.products import sigmoid
from compt_fast.tasks.examples import TrainingRow
from compt_fast.training.cohort import Cohort, Member
from compt_fast.training.plan import Run, plan_runs
from compt_fast.training.step import gradients

ROWS = [TrainingRow([5, 1], [7, 1], i % 2) for i in range(10)]


def plan(**given: str) -> list[Run]:
    given = {"method": "spp", "batch_size": "4", "steps": "6"} | given
    return plan_runs(read_flags(given, None), tasks=["a", "b"], d_model=8)


def cohort_of(runs: list[Run]) -> Cohort:
    cohort = Cohort(runs[0].shape, torch.randn(20, 8))
    for run in runs:
        cohort.admit(Member(run, ROWS))
    return cohort


def learn(cohort: Cohort, times: int = 1) -> None:
    for _ in range(times):
        targets = cohort.compose(cohort.draws()).targets
        assert targets is not None and cohort.optim is not None
        (grads,) = gradients([cohort], targets.square().sum((1, 2, 3)))
        healthy = torch.ones(len(cohort.members), dtype=torch.bool)
        cohort.optim.step(cohort.params, grads, cohort.hyperparameters(), healthy)
        for member in cohort.members:
            member.step += 1


def test_a_member_knows_its_rows_and_its_end() -> None:
    (run,) = plan(steps="3")
    member = Member(run, ROWS)
    assert member.total == 3 and not member.finished
    seen = []
    for _ in range(3):
        seen += member.batch()
        member.step += 1
    assert member.finished
    # One epoch of ten rows: four, four, two, each once.
    assert len(seen) == 10 and sum(row.task for row in seen) == 5


def test_who_leaves_and_who_stays_changes_no_number() -> None:
    runs = plan(seeds="0,1,2,3")
    cohort, other = cohort_of(runs), cohort_of(runs)
    learn(cohort, 2)
    learn(other, 2)
    cohort.keep([3, 1])
    assert [m.run.id for m in cohort.members] == [runs[3].id, runs[1].id]
    learn(cohort, 2)
    learn(other, 2)
    for index, at in ((0, 3), (1, 1)):
        mine, theirs = cohort.run_tensors(index), other.run_tensors(at)
        for name in theirs:
            torch.testing.assert_close(mine[name], theirs[name], rtol=1e-6, atol=1e-7)
    cohort.keep([])
    assert cohort.members == [] and cohort.bank is None


@pytest.mark.parametrize("changes", [{}, {"router": "relaxed-bernoulli"}, {"gates": "tied"}])
def test_a_restored_run_goes_on_with_the_same_bits(changes: dict[str, str]) -> None:
    runs = plan(seeds="0,1", **changes)
    cohort = cohort_of(runs)
    learn(cohort, 2)
    cohort.members[1].best = cohort.prompts(1)
    cohort.members[1].development = {"average": 12.5, "step": 2, "tasks": {}}
    cohort.members[1].selected = 2
    kept = [(m.state(), {n: t.clone() for n, t in cohort.run_tensors(i).items()}) for i, m in enumerate(cohort.members)]
    learn(cohort, 2)
    back = cohort_of(runs)
    for index, (state, tensors) in enumerate(kept):
        back.restore(index, state, tensors)
    assert (back.members[1].best_score, back.members[1].selected) == (12.5, 2)
    assert back.members[0].best is None and back.members[1].best is not None
    learn(back, 2)
    for index in range(2):
        mine, theirs = back.run_tensors(index), cohort.run_tensors(index)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_noise_follows_from_seed_and_step() -> None:
    runs = plan(seeds="0,1", router="relaxed-bernoulli")
    cohort, solo = cohort_of(runs), cohort_of(runs[1:])

    def weights(of: Cohort, index: int) -> Any:
        drawn = of.compose(of.draws()).weights
        assert drawn is not None
        return drawn[index].detach()

    assert torch.equal(weights(cohort, 1), weights(solo, 0))
    assert not torch.equal(weights(cohort, 0), weights(cohort, 1))
    drawn = []
    for step in (4, 5):  # of 6, where the temperature has come to rest
        cohort.members[0].step = step
        drawn.append(weights(cohort, 0))
    assert not torch.equal(*drawn)


def test_prompts_for_evaluation_take_the_routers_sigmoid() -> None:
    runs = plan(seeds="0,1", router="relaxed-bernoulli")
    cohort = cohort_of(runs)
    learn(cohort, 2)
    assert cohort.bank is not None
    weights = cohort.prompts(1).tensors["weights"]
    assert torch.equal(weights, sigmoid(cohort.bank.params["router"][1].detach()))


def test_a_rate_of_zero_freezes_bits_and_leaves_the_clipping() -> None:
    """Of two runs of one shape only the first one's sources are frozen, negative zeros included."""
    frozen, free = plan(method="slp", lr_source="0,0.15", clip_norm="0.01")
    cohort = cohort_of([frozen, free])
    assert cohort.bank is not None and cohort.optim is not None
    with torch.no_grad():
        cohort.bank.params["source_tokens"][:, 0, 0, 0] = -0.0
    before = {name: p.detach().clone() for name, p in cohort.bank.params.items()}
    learn(cohort, 3)
    for name in ("source_tokens", "shared_encoder.out.weight"):
        mine, was = cohort.bank.params[name].detach(), before[name]
        assert torch.equal(mine[0].view(torch.int32), was[0].view(torch.int32))
        assert not torch.equal(mine[1], was[1])
        assert not cohort.optim.first[name][0].any() and cohort.optim.first[name][1].any()
    assert not torch.equal(cohort.bank.params["private_tokens"][0], before["private_tokens"][0])

    targets = cohort.compose({}).targets
    assert targets is not None
    losses = targets.square().sum((1, 2, 3))
    plain = torch.autograd.grad(losses.sum(), list(cohort.params.values()), retain_graph=True)
    (grads,) = gradients([cohort], losses)
    of = dict(zip(cohort.params, plain, strict=True))
    for name, grad in zip(cohort.params, grads, strict=True):
        assert torch.equal(grad[1], of[name][1])
        learns = name in ("private_tokens", "router")
        assert torch.equal(grad[0], of[name][0] if learns else torch.zeros_like(grad[0]))
    norms, _ = cohort.optim.step(cohort.params, grads, cohort.hyperparameters(), torch.ones(2, dtype=torch.bool))
    moving = torch.stack([of[name][0].square().sum() for name in ("private_tokens", "router")])
    torch.testing.assert_close(norms[0], moving.sum().sqrt())


def test_a_run_begins_with_what_is_stored() -> None:
    (run,) = plan(method="silp")
    values = torch.randn(2, 10, 8)
    cohort = Cohort(run.shape, torch.randn(20, 8))
    cohort.admit(Member(run, ROWS, {"source_tokens": values}))
    assert cohort.bank is not None
    assert torch.equal(cohort.bank.params["source_tokens"][0], values)
    sources = cohort.compose({}).sources
    assert sources is not None and torch.equal(sources[0], values), "no encoder changes them"
    fresh = cohort_of([run]).bank
    assert fresh is not None
    assert torch.equal(cohort.bank.params["private_tokens"], fresh.params["private_tokens"])


def test_rates_follow_each_runs_own_schedule() -> None:
    short, long = (plan(steps=steps, warmup="0.5")[0] for steps in ("2", "6"))
    cohort = cohort_of([short, long])
    rates = cohort.hyperparameters().rates
    assert rates["source_tokens"].tolist() == pytest.approx([0.07, 0.07 / 3])
    assert rates["private_tokens"].tolist() == pytest.approx([0.02, 0.02 / 3])
    assert rates["router"].tolist() == pytest.approx([0.1, 0.1 / 3])
