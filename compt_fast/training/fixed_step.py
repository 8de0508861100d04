"""A whole training step on tensors of fixed shapes and addresses: what a CUDA graph is captured of.

Composition of every cohort, the trunk's losses, their way back, clipping and update. What differs from step to step
(the batch, rates and step counts, a router's draws) is worked out on the host, as ever, and copied to where the step
finds it; losses, norms and who was updated are read once it is through. Between the two nothing waits for the device
and nothing but the step's own tensors is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compt_fast.kernels import adamw, moved
from compt_fast.models.batch import Batch, make_batch, offsets_of
from compt_fast.models.t5.fixed import Bucket, FixedBatch
from compt_fast.models.t5.trunk import PackedTrunk
from compt_fast.prompts.parameters import LR_GROUP
from compt_fast.tasks.examples import TrainingRow
from compt_fast.training.cohort import Cohort, Numbers

Batches = Sequence[Sequence[Sequence[TrainingRow]]]
"""The rows of each member of each cohort."""


@dataclass(frozen=True)
class Outcome:
    """What a step gave each member of a cohort; the rates by group of parameters."""

    losses: list[float]
    norms: list[float]
    updated: list[bool]
    rates: dict[str, list[float]]


@dataclass(frozen=True)
class Rows:
    """A step's rows on the host: `counts` of each member, the `batch` of all, its prompts' `offsets` (S+1,), and the
    `bucket` that they make up.
    """

    counts: tuple[int, ...]
    batch: Batch
    offsets: Tensor
    bucket: Bucket

    @classmethod
    def of(cls, cohorts: Sequence[Cohort], batches: Batches) -> Rows:
        slots: list[Tensor] = []
        lengths: list[int] = []
        for cohort, members in zip(cohorts, batches, strict=True):
            runs = torch.tensor([i for i, own in enumerate(members) for _ in own])
            tasks = torch.tensor([row.task for own in members for row in own])
            slots.append(cohort.slots(runs, tasks) + len(lengths))
            lengths += [cohort.shape.target_length] * (len(members) * cohort.shape.tasks)
        rows = [row for members in batches for own in members for row in own]
        numbers = torch.cat(slots).tolist()
        batch = make_batch([row.input_ids for row in rows], [row.label_ids for row in rows], numbers)
        counts = tuple(len(own) for members in batches for own in members)
        offsets = offsets_of(lengths)
        return cls(counts, batch, offsets, Bucket.of(offsets.diff(), batch))

    @property
    def tokens(self) -> int:
        """Real tokens: texts, targets and prompts."""
        prompts = int(self.offsets.diff()[self.batch.slots].sum())
        return self.batch.source_tokens + int(self.batch.target_offsets[-1]) + prompts


class FixedStep:
    """The steps of these cohorts' members whose batches have these `counts` of rows and fall into one bucket."""

    def __init__(self, trunk: PackedTrunk, cohorts: Sequence[Cohort], counts: Sequence[int], bucket: Bucket) -> None:
        self.cohorts = cohorts
        self._counts = list(counts)
        self._batch = FixedBatch(trunk, bucket)
        device = trunk.device
        self._draws = [_like(cohort.draws(), device) for cohort in cohorts]
        self._tables = [torch.empty_like(_table(cohort, cohort.numbers()), device=device) for cohort in cohorts]
        self._rates: list[dict[str, Tensor]] = []
        self._found = torch.zeros(3, len(counts), device=device)

    def put(self, rows: Rows) -> None:
        """Copy what the next `run` is to compute with: `rows`, and the members' present numbers and draws."""
        self._batch.put(rows.offsets, rows.batch)
        self._rates = []
        for cohort, draws, table in zip(self.cohorts, self._draws, self._tables, strict=True):
            now = cohort.numbers()
            self._rates.append(now.rates)
            table.copy_(moved(_table(cohort, now), table.device))
            for name, drawn in cohort.draws().items():
                draws[name].copy_(moved(drawn, table.device))

    def run(self) -> None:
        """One step; every tensor that it makes is gone with it, so that it can be captured."""
        params = [p for cohort in self.cohorts for p in _params(cohort).values()]
        with torch.enable_grad():
            losses = self._losses()
            grads = torch.autograd.grad(losses.sum(), params, allow_unused=True)
        whole = iter([torch.zeros_like(p) if g is None else g for p, g in zip(params, grads, strict=True)])
        norms, updated = [], []
        own = losses.detach().split([len(cohort.members) for cohort in self.cohorts])
        for cohort, table, each in zip(self.cohorts, self._tables, own, strict=True):
            norm, done = _update(cohort, [next(whole) for _ in _params(cohort)], table, each.isfinite())
            norms.append(norm)
            updated.append(done)
        self._found.copy_(torch.stack([losses.detach(), torch.cat(norms), torch.cat(updated).float()]))

    def _losses(self) -> Tensor:
        """Each member's loss (runs,)."""
        stacks = []
        for cohort, draws in zip(self.cohorts, self._draws, strict=True):
            targets = cohort.compose(draws).targets
            assert targets is not None  # no gates that depend on the input
            stacks.append(targets.flatten(0, -2))
        row_losses = self._batch.row_losses(torch.cat(stacks)).split(self._counts)
        lengths = self._batch.target_lengths().split(self._counts)
        return torch.stack([loss.sum() / length.sum() for loss, length in zip(row_losses, lengths, strict=True)])

    def outcomes(self) -> list[Outcome]:
        """What the last `run` gave each cohort, for which this waits."""
        sizes = [len(cohort.members) for cohort in self.cohorts]
        found = []
        for own, rates in zip(self._found.cpu().split(sizes, dim=1), self._rates, strict=True):
            losses, norms, updated = own.tolist()
            rate_of = {group: rate.tolist() for group, rate in rates.items()}
            found.append(Outcome(losses, norms, [bool(done) for done in updated], rate_of))
        return found


def _like(host: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: torch.empty_like(tensor, device=device) for name, tensor in host.items()}


def _params(cohort: Cohort) -> dict[str, Tensor]:
    assert cohort.bank is not None
    return cohort.bank.params


def _table(cohort: Cohort, now: Numbers) -> Tensor:
    """The update's numbers, as its kernels want them."""
    rates = [now.rates[LR_GROUP[name]] for name in _params(cohort)]
    return adamw.table_of(rates, now.decay, now.clip, now.taken)


def _update(cohort: Cohort, grads: list[Tensor], table: Tensor, healthy: Tensor) -> tuple[Tensor, Tensor]:
    """Norms and who was updated, (R,) each."""
    assert cohort.optim is not None
    params = _params(cohort)
    for i, name in enumerate(params):
        if frozen := cohort.frozen(name):
            grads[i] = grads[i].clone()  # it may be another one's too
            for run in frozen:
                grads[i][run].zero_()
    return cohort.optim.apply(params, grads, table, healthy)
