"""What a trunk is given: target prompts by slot, and rows without padding.

Everything ragged is stored flat with offsets, so that an engine may pad it or not as it likes.
Offsets and slots stay on the host: layouts are computed from them without waiting for an
accelerator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor


def offsets_of(lengths: Sequence[int] | Tensor) -> Tensor:
    """Where each of n consecutive pieces starts, and where the last one ends: (n+1,) int64 on the
    host.
    """
    offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64)
    torch.cumsum(torch.as_tensor(lengths, dtype=torch.int64), 0, out=offsets[1:])
    return offsets


def spread(starts: Tensor, lengths: Tensor) -> Tensor:
    """The index ranges `starts[i] .. starts[i] + lengths[i] - 1`, one after the other: (sum of
    lengths,) int64.

    `starts` and `lengths` are (n,) int64 on the host; a range may be empty.
    """
    offsets = offsets_of(lengths)
    shift = torch.repeat_interleave(starts - offsets[:-1], lengths)
    return shift + torch.arange(int(offsets[-1]))


def longest_first(lengths: Tensor) -> Tensor:
    """The numbers (B,) of rows of `lengths` (B,), the longest first and of equals the first."""
    return lengths.argsort(descending=True, stable=True)


def _check_offsets(name: str, offsets: Tensor, total: int) -> None:
    if offsets.dtype != torch.int64 or offsets.dim() != 1 or len(offsets) == 0 or offsets.is_cuda:
        raise ValueError(
            f"{name} must be a one-dimensional int64 tensor on the CPU, got {offsets.dtype} of"
            f" shape {tuple(offsets.shape)} on {offsets.device}"
        )
    if offsets[0] != 0 or offsets[-1] != total or bool((offsets.diff() < 0).any()):
        raise ValueError(f"{name} must ascend from 0 to {total}, got {offsets.tolist()}")


@dataclass(frozen=True)
class TargetPrompts:
    """The target prompts of S slots: `flat` (P, d), any float dtype; `offsets` (S+1,) int64 on the
    CPU.

    Slot s owns the rows `flat[offsets[s]:offsets[s+1]]`; a slot may have no prompt tokens at all.
    """

    flat: Tensor
    offsets: Tensor

    def __post_init__(self) -> None:
        if self.flat.dim() != 2 or not self.flat.is_floating_point():
            raise ValueError(
                f"target prompts must be a float tensor (P, d), got {self.flat.dtype} {tuple(self.flat.shape)}"
            )
        _check_offsets("prompt offsets", self.offsets, len(self.flat))

    @classmethod
    def from_stacks(cls, stacks: Sequence[Tensor]) -> TargetPrompts:
        """One slot for each prompt of each stack (..., L, d), in order: `(R, T, L, d)` gives slots
        r * T + t.
        """
        if not stacks:
            raise ValueError("no target prompts given: at least one stack is needed")
        lengths = [stack.shape[-2] for stack in stacks for _ in range(stack.shape[:-2].numel())]
        return cls(torch.cat([stack.flatten(0, -2) for stack in stacks]), offsets_of(lengths))

    @property
    def slots(self) -> int:
        """The number of slots S."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """Prompt tokens of each slot: (S,) int64 on the CPU."""
        return self.offsets.diff()


@dataclass(frozen=True)
class Batch:
    """B rows: `source_ids` (N,) and `target_ids` (M,) int64 on any device, all else int64 on the
    CPU.

    Row b reads `source_ids[source_offsets[b]:source_offsets[b+1]]`, should answer the same range of
    `target_ids` and carries the prompt of slot `slots[b]`. When decoding, the targets are empty.
    """

    source_ids: Tensor
    source_offsets: Tensor
    target_ids: Tensor
    target_offsets: Tensor
    slots: Tensor

    @property
    def rows(self) -> int:
        """The number of rows B."""
        return len(self.slots)

    @property
    def source_tokens(self) -> int:
        """Tokens of all source texts together, without prompts and padding."""
        return int(self.source_offsets[-1])

    @property
    def source_lengths(self) -> Tensor:
        """Tokens of each row's source text: (B,) int64 on the CPU."""
        return self.source_offsets.diff()

    @property
    def target_lengths(self) -> Tensor:
        """Tokens of each row's target, its </s> included: (B,) int64 on the CPU."""
        return self.target_offsets.diff()

    def take(self, rows: Tensor) -> Batch:
        """The rows numbered `rows` (n,), int64 on the CPU, in that order."""
        parts: dict[str, Tensor] = {"slots": self.slots[rows]}
        for name, ids, offsets in (
            ("source", self.source_ids, self.source_offsets),
            ("target", self.target_ids, self.target_offsets),
        ):
            lengths = offsets.diff()[rows]
            parts[f"{name}_ids"] = ids[spread(offsets[rows], lengths).to(ids.device)]
            parts[f"{name}_offsets"] = offsets_of(lengths)
        return Batch(**parts)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its token ids on `device`; offsets and slots stay on the CPU."""
        return replace(
            self,
            source_ids=self.source_ids.to(device, non_blocking=True),
            target_ids=self.target_ids.to(device, non_blocking=True),
        )


def make_batch(
    sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]] | None, slots: Sequence[int]
) -> Batch:
    """Rows of token ids, each ending with </s>, as a `Batch` on the CPU; `targets` is None when
    decoding.

    Raises ValueError when the three do not describe the same rows, or a row has no source or no
    target token.
    """
    rows = len(sources)
    if rows == 0:
        raise ValueError("a batch needs at least one row")
    if len(slots) != rows or (targets is not None and len(targets) != rows):
        raise ValueError(
            f"{rows} sources, {'no' if targets is None else len(targets)} targets and"
            f" {len(slots)} slots do not describe the same rows"
        )
    answers = targets if targets is not None else [()] * rows
    for row, (source, target) in enumerate(zip(sources, answers, strict=True)):
        if len(source) == 0:
            raise ValueError(f"row {row} has no source tokens")
        if targets is not None and len(target) == 0:
            raise ValueError(f"row {row} has no target tokens")
    return Batch(
        source_ids=torch.tensor(list(chain.from_iterable(sources)), dtype=torch.int64),
        source_offsets=offsets_of([len(source) for source in sources]),
        target_ids=torch.tensor(list(chain.from_iterable(answers)), dtype=torch.int64),
        target_offsets=offsets_of([len(target) for target in answers]),
        slots=torch.tensor(list(slots), dtype=torch.int64),
    )
