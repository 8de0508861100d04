"""What a trunk is given: target prompts by slot, and rows without padding.

Everything ragged is stored flat with cumulative lengths, so that an engine may pad it or not as it likes.
Cumulative lengths and slots stay on the host: layouts are computed from them without waiting for an
accelerator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise

import torch
from torch import Tensor

from compt_fast.kernels import moved
from compt_fast.ops.placement import Placement
from compt_fast.ops.varlen import cu_seqlens_of, ranges


def longest_first(lengths: Tensor) -> Tensor:
    """The numbers (B,) of rows of `lengths` (B,), the longest first and of equals the first."""
    return lengths.argsort(descending=True, stable=True)


def _check_cu_seqlens(name: str, cu_seqlens: Tensor, total: int) -> None:
    if cu_seqlens.dtype != torch.int64 or cu_seqlens.dim() != 1 or len(cu_seqlens) == 0 or cu_seqlens.is_cuda:
        raise ValueError(
            f"{name} must be a one-dimensional int64 tensor on the CPU, got {cu_seqlens.dtype} of"
            f" shape {tuple(cu_seqlens.shape)} on {cu_seqlens.device}"
        )
    if cu_seqlens[0] != 0 or cu_seqlens[-1] != total or bool((cu_seqlens.diff() < 0).any()):
        raise ValueError(f"{name} must ascend from 0 to {total}, got {cu_seqlens.tolist()}")


@dataclass(frozen=True)
class TargetPrompts:
    """The target prompts of S slots: `flat` (P, d), any float dtype; `cu_seqlens` (S+1,) int64 on the CPU.

    Slot s owns the rows `flat[cu_seqlens[s]:cu_seqlens[s+1]]`; a slot may have no prompt tokens at all.
    """

    flat: Tensor
    cu_seqlens: Tensor

    def __post_init__(self) -> None:
        if self.flat.dim() != 2 or not self.flat.is_floating_point():
            raise ValueError(
                f"target prompts must be a float tensor (P, d), got {self.flat.dtype} {tuple(self.flat.shape)}"
            )
        _check_cu_seqlens("cu_seqlens of the prompts", self.cu_seqlens, len(self.flat))

    @classmethod
    def from_stacks(cls, stacks: Sequence[Tensor]) -> TargetPrompts:
        """One slot for each prompt of each stack (..., L, d), in order: `(R, T, L, d)` gives slots
        r * T + t.
        """
        if not stacks:
            raise ValueError("no target prompts given: at least one stack is needed")
        lengths = [stack.shape[-2] for stack in stacks for _ in range(stack.shape[:-2].numel())]
        return cls(torch.cat([stack.flatten(0, -2) for stack in stacks]), cu_seqlens_of(lengths))

    @property
    def slots(self) -> int:
        """The number of slots S."""
        return len(self.cu_seqlens) - 1

    @property
    def lengths(self) -> Tensor:
        """Prompt tokens of each slot: (S,) int64 on the CPU."""
        return self.cu_seqlens.diff()


@dataclass(frozen=True)
class Batch:
    """B rows: `input_ids` (N,) and `label_ids` (M,) int64 on any device, all else int64 on the CPU.

    Row b's input is `input_ids[input_cu_seqlens[b]:input_cu_seqlens[b+1]]`, its label the same range of
    `label_ids` and `label_cu_seqlens`, and it carries the prompt of slot `slots[b]`. When decoding, the labels
    are empty. `joined` are the rows of each of the batches that `join` made it of, one after the other.
    """

    input_ids: Tensor
    input_cu_seqlens: Tensor
    label_ids: Tensor
    label_cu_seqlens: Tensor
    slots: Tensor
    joined: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """The number of rows B."""
        return len(self.slots)

    @property
    def parts(self) -> list[slice]:
        """The rows of each of the batches that were joined: of one that stands for itself all rows."""
        ends = list(accumulate(self.joined or (self.rows,), initial=0))
        return [slice(*pair) for pair in pairwise(ends)]

    @property
    def input_tokens(self) -> int:
        """Tokens of all inputs together, without prompts and padding."""
        return int(self.input_cu_seqlens[-1])

    @property
    def input_lengths(self) -> Tensor:
        """Tokens of each row's input: (B,) int64 on the CPU."""
        return self.input_cu_seqlens.diff()

    @property
    def label_lengths(self) -> Tensor:
        """Tokens of each row's label, its </s> included: (B,) int64 on the CPU."""
        return self.label_cu_seqlens.diff()

    def placement(self, prompt_cu_seqlens: Tensor, prepend: bool) -> Placement:
        """Where prompts and texts of these rows stand when they are packed; `prompt_cu_seqlens` (S+1,) are those of
        the target prompts.
        """
        return Placement.packed(prompt_cu_seqlens, self.slots, self.input_lengths, prepend)

    def input_places(self, rows: Tensor) -> Tensor:
        """The places in `input_ids` of the rows numbered `rows` (n,), one after the other: int64 on the CPU."""
        return ranges(self.input_cu_seqlens[rows], self.input_lengths[rows])

    def take(self, rows: Tensor) -> Batch:
        """The rows numbered `rows` (n,), int64 on the CPU, in that order."""
        label_lengths = self.label_lengths[rows]
        label_places = ranges(self.label_cu_seqlens[rows], label_lengths)
        return Batch(
            input_ids=self.input_ids[self.input_places(rows).to(self.input_ids.device)],
            input_cu_seqlens=cu_seqlens_of(self.input_lengths[rows]),
            label_ids=self.label_ids[label_places.to(self.label_ids.device)],
            label_cu_seqlens=cu_seqlens_of(label_lengths),
            slots=self.slots[rows],
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its token ids on `device`; cumulative lengths and slots stay on the CPU."""
        return replace(
            self,
            input_ids=moved(self.input_ids, torch.device(device)),
            label_ids=moved(self.label_ids, torch.device(device)),
        )


def make_batch(inputs: Sequence[Sequence[int]], labels: Sequence[Sequence[int]] | None, slots: Sequence[int]) -> Batch:
    """Rows of token ids, each ending with </s>, as a `Batch` on the CPU; `labels` is None when decoding.

    Raises ValueError when the three do not describe the same rows, or a row has no input or no label token.
    """
    rows = len(inputs)
    if rows == 0:
        raise ValueError("a batch needs at least one row")
    if len(slots) != rows or (labels is not None and len(labels) != rows):
        raise ValueError(
            f"{rows} inputs, {'no' if labels is None else len(labels)} labels and"
            f" {len(slots)} slots do not describe the same rows"
        )
    answers = labels if labels is not None else [()] * rows
    for row, (text, label) in enumerate(zip(inputs, answers, strict=True)):
        if len(text) == 0:
            raise ValueError(f"row {row} has no input tokens")
        if labels is not None and len(label) == 0:
            raise ValueError(f"row {row} has no label tokens")
    return Batch(
        input_ids=torch.tensor(list(chain.from_iterable(inputs)), dtype=torch.int64),
        input_cu_seqlens=cu_seqlens_of([len(text) for text in inputs]),
        label_ids=torch.tensor(list(chain.from_iterable(answers)), dtype=torch.int64),
        label_cu_seqlens=cu_seqlens_of([len(label) for label in answers]),
        slots=torch.tensor(list(slots), dtype=torch.int64),
    )


def join(parts: Sequence[tuple[TargetPrompts, Batch]]) -> tuple[TargetPrompts, Batch]:
    """Batches of one device, each with its prompts, as one: their rows one after the other. Prompts that several share,
    the very same object, are there once.

    A trunk that `joins` answers each row as in its own batch, which it knows by `Batch.parts`.
    """
    if len(parts) == 1:
        return parts[0]
    batches = [batch for _, batch in parts]
    distinct = list({id(prompts): prompts for prompts, _ in parts}.values())
    first_slots = cu_seqlens_of([prompts.slots for prompts in distinct]).tolist()
    firsts = dict(zip(map(id, distinct), first_slots, strict=False))
    joined = Batch(
        input_ids=torch.cat([batch.input_ids for batch in batches]),
        input_cu_seqlens=cu_seqlens_of(torch.cat([batch.input_lengths for batch in batches])),
        label_ids=torch.cat([batch.label_ids for batch in batches]),
        label_cu_seqlens=cu_seqlens_of(torch.cat([batch.label_lengths for batch in batches])),
        slots=torch.cat([batch.slots + firsts[id(prompts)] for prompts, batch in parts]),
        joined=tuple(batch.rows for batch in batches),
    )
    lengths = torch.cat([prompts.lengths for prompts in distinct])
    return TargetPrompts(torch.cat([prompts.flat for prompts in distinct]), cu_seqlens_of(lengths)), joined
