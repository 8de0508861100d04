"""One training step: what is packed for it, and what its tensors become."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from compt_fast.config.flags import read_flags
from compt_fast.models.batch import Batch, TargetPrompts, make_batch
from compt_fast.prompts.entry import Texts
from compt_fast.tasks.examples import TrainingRow
from compt_fast.training.cohort import Cohort, Member
from compt_fast.training.plan import Run, plan_runs
from compt_fast.training.step import Inputs, Packed, forward, gradients, members_of, pack, update

EMBEDDING = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
TENSORS = [of.name for of in fields(Batch) if of.name != "joined"]
ROWS = [TrainingRow([3 + i, 5, 1][-2 - i % 2 :], [7, 1][i % 3 == 0 :], i % 2) for i in range(10)]


class Summing:
    """In place of a trunk: a row's loss is the sum of its prompt's numbers, once for each of its target's tokens."""

    device = torch.device("cpu")

    def row_losses(
        self, prompts: TargetPrompts, batch: Batch, input_update: Tensor | None = None, teachers: None = None
    ) -> Tensor:
        sums = torch.stack([own.sum() for own in prompts.flat.split(prompts.lengths.tolist())])
        if input_update is not None:
            added = torch.stack([own.sum() for own in input_update.split(batch.input_lengths.tolist())])
            return (sums[batch.slots] + added) * batch.label_lengths
        return sums[batch.slots] * batch.label_lengths

    def texts(self, batch: Batch) -> Texts:
        return Texts(EMBEDDING[batch.input_ids], batch.input_lengths)


TRUNK: Any = Summing()


def plan(**given: Any) -> list[Run]:
    given = {"method": "spp", "batch_size": "4", "steps": "6", "prompt_length": "2"} | given
    return plan_runs(read_flags(given, None), tasks=["a", "b"], d_model=8)


def cohorts_of(*runs: Run) -> list[Cohort]:
    """A cohort for each shape, in order."""
    found: dict[Any, Cohort] = {}
    for run in runs:
        found.setdefault(run.shape, Cohort(run.shape, EMBEDDING)).admit(Member(run, ROWS))
    return list(found.values())


def of_two_shapes() -> list[Cohort]:
    """Two runs of spp, and one of scp, whose target prompts are twice as long."""
    return cohorts_of(*plan(seeds="0,1"), *plan(method="scp", batch_size="3"))


def rows_of(cohorts: list[Cohort]) -> list[TrainingRow]:
    return [row for cohort in cohorts for member in cohort.members for row in member.batch()]


def test_rows_slots_and_tokens_of_several_cohorts() -> None:
    cohorts = of_two_shapes()
    packed, rows = pack(cohorts), rows_of(cohorts)
    tasks = [row.task for row in rows]
    firsts = [0] * 4 + [2] * 4 + [4] * 3  # of runs with two tasks each
    slots = [first + task for first, task in zip(firsts, tasks, strict=True)]
    wanted = make_batch([row.input_ids for row in rows], [row.label_ids for row in rows], slots)
    assert all(torch.equal(getattr(packed.batch, name), getattr(wanted, name)) for name in TENSORS)
    assert packed.counts == (4, 4, 3)
    assert packed.prompt_lengths.tolist() == [2, 2, 2, 2, 4, 4]
    assert packed.tokens == sum(len(row.input_ids) + len(row.label_ids) for row in rows) + 8 * 2 + 3 * 4
    assert [part.tasks.tolist() for part in packed.parts] == [tasks[:8], tasks[8:]]
    assert packed.parts[0].runs.tolist() == [0] * 4 + [1] * 4


def test_every_row_is_its_own_slot_with_input_gates() -> None:
    cohorts = cohorts_of(*plan(), *plan(gates="input", seeds="0,1"))
    packed = pack(cohorts)
    assert packed.batch.slots[4:].tolist() == list(range(2, 10))
    assert packed.prompt_lengths.tolist() == [2] * 10
    inputs = Inputs.of(TRUNK, cohorts, packed)
    means = TRUNK.texts(packed.batch).means
    assert inputs.parts[0].texts is None
    assert inputs.parts[1].texts is not None and torch.equal(inputs.parts[1].texts.means, means[4:])
    losses = forward(cohorts, inputs)
    alone = forward(cohorts[1:], Inputs.of(TRUNK, cohorts[1:], pack(cohorts[1:])))
    assert torch.equal(losses[1:], alone)


def test_updates_of_some_cohorts_reach_their_own_rows_only() -> None:
    dept = {"method": "dept", "update_length": "3", "update_rank": "2", "seeds": "0,1", "apart": False}
    cohorts = cohorts_of(*plan(**dept), *plan(), *plan(method="adept", update_rank="2", apart=False))
    starting = forward(cohorts, Inputs.of(TRUNK, cohorts, pack(cohorts)))
    with torch.no_grad():
        for cohort in cohorts:
            for name in [name for name in cohort.params if name.startswith("update")]:
                cohort.params[name].add_(0.1)
    inputs = Inputs.of(TRUNK, cohorts, pack(cohorts))
    assert [part.texts is None for part in inputs.parts] == [False, True, False]
    losses = forward(cohorts, inputs)
    assert (losses == starting).tolist() == [False, False, True, False]
    alone = [forward([one], Inputs.of(TRUNK, [one], pack([one]))) for one in cohorts]
    assert torch.equal(losses, torch.cat(alone))


def test_a_runs_loss_is_the_mean_over_its_own_target_tokens() -> None:
    cohorts = of_two_shapes()
    losses = forward(cohorts, Inputs.of(TRUNK, cohorts, pack(cohorts)))
    wanted = []
    for cohort in cohorts:
        targets = cohort.compose({}).targets
        assert targets is not None
        for run, member in enumerate(cohort.members):
            rows = member.batch()
            summed = sum(targets[run, row.task].sum() * len(row.label_ids) for row in rows)
            wanted.append(summed / sum(len(row.label_ids) for row in rows))
    torch.testing.assert_close(losses, torch.stack(wanted))


def same(a: Packed, b: Packed) -> bool:
    """Whether two packed steps hold the same numbers, and whose."""

    def tensors(packed: Packed) -> list[Tensor]:
        parts = []
        for part in packed.parts:
            parts += [part.runs, part.tasks, *part.draws.values()]
            parts += [*part.hyperparameters.rates.values(), part.hyperparameters.step]
        batch = [getattr(packed.batch, name) for name in TENSORS]
        return [*batch, packed.cu_seqlens, *parts]

    pairs = zip(tensors(a), tensors(b), strict=True)
    return (a.members, a.counts) == (b.members, b.counts) and all(torch.equal(mine, own) for mine, own in pairs)


@pytest.mark.parametrize("ahead", [1, 3])  # an epoch's third batch, of four, is smaller
def test_what_is_packed_ahead_is_what_is_packed_then(ahead: int) -> None:
    cohorts = cohorts_of(*plan(router="relaxed-bernoulli", seeds="0,1"), *plan(method="pt-joint"))
    now, early = pack(cohorts), pack(cohorts, ahead)
    assert early.members == members_of(cohorts, ahead) != members_of(cohorts)
    for cohort in cohorts:
        for member in cohort.members:
            member.step += ahead
    assert same(early, pack(cohorts)) and not same(early, now)


def test_gradients_are_those_of_a_backward_pass() -> None:
    """Bit for bit, and zero of what the losses do not depend on."""
    cohorts = of_two_shapes()
    losses = forward(cohorts, Inputs.of(TRUNK, cohorts, pack(cohorts)))
    losses.sum().backward(retain_graph=True)
    for cohort, grads in zip(cohorts, gradients(cohorts, losses), strict=True):
        for p, grad in zip(cohort.params.values(), grads, strict=True):
            assert p.grad is not None and torch.equal(grad, p.grad)
    first, second = cohorts
    targets = first.compose({}).targets
    assert targets is not None
    of_first, of_second = gradients([first, second], targets.square().sum((1, 2, 3)))
    assert all(grad.any() for grad in of_first[:2])
    assert [grad.shape for grad in of_second] == [p.shape for p in second.params.values()]
    assert not any(grad.any() for grad in of_second)


def test_an_update_says_what_it_did_of_each_run() -> None:
    """One run's loss is not finite: it stays as it was, and the others move."""
    cohorts = of_two_shapes()
    with torch.no_grad():
        cohorts[0].params["private_tokens"][1] = torch.nan
    before = [{name: p.detach().clone() for name, p in cohort.params.items()} for cohort in cohorts]
    inputs = Inputs.of(TRUNK, cohorts, pack(cohorts))
    losses = forward(cohorts, inputs)
    found = update(cohorts, inputs, losses, gradients(cohorts, losses))
    assert found.shape == (3, 3) and torch.equal(found[0].isfinite(), torch.tensor([True, False, True]))
    assert found[1, 0] > 0 and found[1, 2] > 0
    assert found[2].tolist() == [1, 0, 1]
    moved = [
        [not torch.equal(p[run], old["source_tokens"][run]) for run in range(len(p))]
        for p, old in zip((cohort.params["source_tokens"] for cohort in cohorts), before, strict=True)
    ]
    assert moved == [[True, False], [True]]
