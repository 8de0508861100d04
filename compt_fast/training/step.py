"""One training step of all runs that train side by side: rows -> pack -> forward -> gradients -> update.

`pack` works on the host alone, and takes no more than step counts: what a step needs can be packed while the device
still computes the one before. What follows works on the tensors of `Inputs` and the cohorts' own, and itself reads none
of the host's; so it runs operator by operator, or captured (`graphs`) on inputs that stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from compt_fast.kernels import moved
from compt_fast.models.api import Trunk
from compt_fast.models.batch import Batch, TargetPrompts, make_batch
from compt_fast.models.distillation import Teachers
from compt_fast.ops.varlen import cu_seqlens_of
from compt_fast.prompts.compose import compose_rows, update_inputs
from compt_fast.prompts.entry import Texts
from compt_fast.training.cohort import Cohort
from compt_fast.training.distillation import teachers_of
from compt_fast.training.optimizer import Hyperparameters

Members = tuple[tuple[tuple[str, int], ...], ...]
"""The run and the step of each member of each cohort."""


def members_of(cohorts: Sequence[Cohort], ahead: int = 0) -> Members:
    """Who trains, and at which step, `ahead` steps from now if nobody leaves or enters."""
    return tuple(tuple((member.run.id, member.step + ahead) for member in cohort.members) for cohort in cohorts)


@dataclass(frozen=True)
class Part:
    """One cohort's part of a step: R members and B rows.

    `runs` and `tasks` (B,) int64 say whose row each is, `draws` are the router's. `texts` are there on
    the device only, and where target prompts or an update of the texts depend on their row.
    """

    runs: Tensor
    tasks: Tensor
    draws: dict[str, Tensor]
    hyperparameters: Hyperparameters
    texts: Texts | None = None


@dataclass(frozen=True)
class Packed:
    """All that a step takes, on the host: the `batch` of all rows, `counts` of each member, the target prompts'
    `cu_seqlens` (S+1,) int64, the part of each cohort.
    """

    members: Members
    counts: tuple[int, ...]
    batch: Batch
    cu_seqlens: Tensor
    parts: list[Part]

    @property
    def prompt_lengths(self) -> Tensor:
        """Prompt tokens of each slot: (S,) int64."""
        return self.cu_seqlens.diff()

    @property
    def tokens(self) -> int:
        """Real tokens: inputs, labels and prompts."""
        prompts = int(self.prompt_lengths[self.batch.slots].sum())
        return self.batch.input_tokens + int(self.batch.label_cu_seqlens[-1]) + prompts


class Rows(Protocol):
    """A step's rows as a trunk takes them."""

    def row_losses(self, flat: Tensor, input_update: Tensor | None) -> Tensor:
        """Each row's loss (B,), as `Trunk.row_losses`; `flat` (P, d) are the target prompts of all slots,
        `input_update` is that of the texts of all cohorts which have one, one after the other.
        """

    def label_lengths(self) -> Tensor:
        """The tokens of each row's label, (B,) int64 on the device."""


@dataclass(frozen=True)
class PackedRows:
    """`Rows` of any trunk, of shapes of their own; `updated` (B,) bool says whose texts have an update."""

    trunk: Trunk
    batch: Batch
    cu_seqlens: Tensor
    updated: Tensor
    teachers: Teachers | None = None

    def row_losses(self, flat: Tensor, input_update: Tensor | None) -> Tensor:
        prompts = TargetPrompts(flat, self.cu_seqlens)
        if input_update is None or bool(self.updated.all()):
            return self.trunk.row_losses(prompts, self.batch, input_update, self.teachers)
        # In passes of their own, so that the other rows' backward goes no further than without these beside them.
        with_update, without = self.updated.nonzero().flatten(), (~self.updated).nonzero().flatten()
        losses = [
            self.trunk.row_losses(prompts, self.batch.take(rows), update, self.teachers and self.teachers.within(rows))
            for rows, update in ((without, None), (with_update, input_update))
        ]
        return torch.cat(losses)[torch.cat([without, with_update]).argsort().to(flat.device)]

    def label_lengths(self) -> Tensor:
        return self.batch.label_lengths.to(self.trunk.device)


@dataclass(frozen=True)
class Inputs:
    """What a step computes with: its rows, `counts` of them by member, and each cohort's part, on the device."""

    rows: Rows
    counts: tuple[int, ...]
    parts: list[Part]

    @classmethod
    def of(cls, trunk: Trunk, cohorts: Sequence[Cohort], packed: Packed) -> Inputs:
        """`packed` on the trunk's device."""
        device = trunk.device
        batch = packed.batch.to(device)
        teachers = teachers_of(cohorts, [(part.runs, part.tasks) for part in packed.parts])
        parts = [
            replace(part, draws={name: moved(drawn, device) for name, drawn in part.draws.items()})
            for part in packed.parts
        ]
        by_row = [cohort.shape.per_row or cohort.shape.updates_inputs for cohort in cohorts]
        if any(by_row):
            texts = trunk.texts(batch).split([len(part.runs) for part in parts])
            parts = [
                replace(part, runs=part.runs.to(device), tasks=part.tasks.to(device), texts=own) if rowwise else part
                for part, own, rowwise in zip(parts, texts, by_row, strict=True)
            ]
        updated = [
            torch.full((len(part.runs),), cohort.shape.updates_inputs)
            for cohort, part in zip(cohorts, parts, strict=True)
        ]
        return cls(PackedRows(trunk, batch, packed.cu_seqlens, torch.cat(updated), teachers), packed.counts, parts)


def pack(cohorts: Sequence[Cohort], ahead: int = 0) -> Packed:
    """What all members take in their present step, or `ahead` steps later; the slots of each cohort follow those of
    the one before.

    Where a run's tasks have one target prompt each, its slots are theirs, run by run.
    """
    rows, slots, parts = [], [], []
    counts: list[int] = []
    lengths: list[int] = []
    for cohort in cohorts:
        shape, batches = cohort.shape, [member.batch(ahead) for member in cohort.members]
        own = [row for batch in batches for row in batch]
        runs = torch.tensor([run for run, batch in enumerate(batches) for _ in batch])
        tasks = torch.tensor([row.task for row in own])
        local = torch.arange(len(own)) if shape.per_row else runs * shape.tasks + tasks
        slots.append(local + len(lengths))
        lengths += [shape.target_length] * (len(own) if shape.per_row else len(batches) * shape.tasks)
        rows += own
        counts += map(len, batches)
        parts.append(Part(runs, tasks, cohort.draws(ahead), cohort.hyperparameters(ahead)))
    batch = make_batch([row.input_ids for row in rows], [row.label_ids for row in rows], torch.cat(slots).tolist())
    return Packed(members_of(cohorts, ahead), tuple(counts), batch, cu_seqlens_of(lengths), parts)


def forward(cohorts: Sequence[Cohort], inputs: Inputs) -> Tensor:
    """Each member's loss (runs,): the mean over the label tokens of its rows, in one pass of the trunk over all."""
    whole = list(zip(cohorts, inputs.parts, strict=True))
    stacks = [_target_prompts(cohort, part) for cohort, part in whole]
    updates = [_input_update(cohort, part) for cohort, part in whole if cohort.shape.updates_inputs]
    row_losses = inputs.rows.row_losses(torch.cat(stacks), torch.cat(updates) if updates else None).split(inputs.counts)
    lengths = inputs.rows.label_lengths().split(inputs.counts)
    return torch.stack([loss.sum() / length.sum() for loss, length in zip(row_losses, lengths, strict=True)])


def _target_prompts(cohort: Cohort, part: Part) -> Tensor:
    """The target prompts of a cohort's slots, one after the other: (prompt tokens, d)."""
    composition = cohort.compose(part.draws)
    targets = composition.targets
    if cohort.shape.per_row:
        assert part.texts is not None
        drawn = part.draws.get("noise") if cohort.shape.entries.router.per_row else None
        targets = compose_rows(composition, cohort.params, cohort.shape, part.runs, part.tasks, part.texts, noise=drawn)
    assert targets is not None
    return targets.flatten(0, -2)


def _input_update(cohort: Cohort, part: Part) -> Tensor:
    """What a cohort adds to the token embeddings of its rows' texts: (N, d)."""
    assert part.texts is not None
    return update_inputs(cohort.params, cohort.shape, part.runs, part.tasks, part.texts)


def gradients(cohorts: Sequence[Cohort], losses: Tensor) -> list[list[Tensor]]:
    """The gradients (R, ...) of each cohort's parameters, in their order."""
    params = [p for cohort in cohorts for p in cohort.params.values()]
    # Every loss has only its own run's prompts behind it, so the sum's gradient is each one's own, and a loss that is
    # not finite spoils no other.
    found = iter(torch.autograd.grad(losses.sum(), params, allow_unused=True))
    return [[_learned(cohort, name, next(found)) for name in cohort.params] for cohort in cohorts]


def _learned(cohort: Cohort, name: str, grad: Tensor | None) -> Tensor:
    """A parameter's gradient, zero of the runs that have a rate of 0 for it, so that it does not count when they are
    clipped.
    """
    if grad is None:
        return torch.zeros_like(cohort.params[name])
    if frozen := cohort.frozen(name):
        grad = grad.clone()  # it may be another one's too
        for run in frozen:
            grad[run].zero_()
    return grad


def update(cohorts: Sequence[Cohort], inputs: Inputs, losses: Tensor, grads: list[list[Tensor]]) -> Tensor:
    """Clipping and AdamW of every cohort, from `losses` and what `gradients` made of them, which is used up.

    Returns (3, runs) in the losses' dtype and on their device: each member's loss, its gradient's norm before clipping,
    and 1 where it was updated. Where loss or gradient are not finite it is not.
    """
    losses = losses.detach()
    norms, updated = [], []
    each = losses.split([len(cohort.members) for cohort in cohorts])
    for cohort, part, own, own_grads in zip(cohorts, inputs.parts, each, grads, strict=True):
        assert cohort.optim is not None
        norm, done = cohort.optim.step(cohort.params, own_grads, part.hyperparameters, own.isfinite())
        norms.append(norm)
        updated.append(done)
    return torch.stack([losses, torch.cat(norms), torch.cat(updated).to(losses.dtype)])
