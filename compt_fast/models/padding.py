"""Rows of labels laid flat, with `cu_seqlens`, and padded side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.ops.varlen import ranges


def grid(cu_seqlens: Tensor) -> tuple[Tensor, int]:
    """Where each id stands once ragged rows are padded to (n, width) and flattened; and width."""
    lengths = cu_seqlens.diff()
    width = int(lengths.max())
    return ranges(torch.arange(len(lengths)) * width, lengths), width


def pad(ids: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Flat `ids` as rows (n, width), padded behind with 0 to the longest."""
    at, width = grid(cu_seqlens)
    rows = ids.new_zeros((len(cu_seqlens) - 1) * width)
    return rows.index_copy(0, at.to(ids.device), ids).view(-1, width)


@dataclass(frozen=True)
class LabelPlaces:
    """Where the N tokens of n rows of labels stand once they are padded to `width`: `places` (N,) and `lengths` (n,)
    int64.
    """

    places: Tensor
    lengths: Tensor
    width: int

    @classmethod
    def of(cls, cu_seqlens: Tensor, device: torch.device) -> LabelPlaces:
        """Those of rows with `cu_seqlens` (n+1,), on `device`."""
        places, width = grid(cu_seqlens)
        return cls(places.to(device), cu_seqlens.diff().to(device), width)

    def flat(self, padded: Tensor) -> Tensor:
        """The real places of (n, at least width, ...): (N, ...)."""
        return padded[:, : self.width].flatten(0, 1)[self.places]

    def sum_by_row(self, values: Tensor) -> Tensor:
        """The sum of each row's own of (N,): (n,)."""
        # Placed and summed by row: adding by index would not be deterministic on a GPU.
        rows = values.new_zeros(len(self.lengths) * self.width).index_copy(0, self.places, values)
        return rows.view(-1, self.width).sum(1)


def cross_entropy(logits: Tensor, ids: Tensor, cu_seqlens: Tensor) -> Tensor:
    """The cross-entropy of each row of flat `ids` under `logits` (n, width, V), summed over its
    tokens: (n,) fp32, or fp64 where the logits are.
    """
    labels = LabelPlaces.of(cu_seqlens, ids.device)
    scored = labels.flat(logits)
    return labels.sum_by_row(
        F.cross_entropy(scored.to(torch.promote_types(scored.dtype, torch.float32)), ids, reduction="none")
    )
