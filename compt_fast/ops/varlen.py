"""Rows of unlike lengths in packed tensors: who attends to whom, and how rows are padded side by side for it.

Row b's queries are `cu_seqlens_q[b] .. cu_seqlens_q[b+1] - 1` of a packed tensor, its keys the same range of
`cu_seqlens_k` in another (or the same) one. Queries and keys of a row end together: the last query stands
at the place of the last key, as a decoder's newest token does behind what it has already written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from compt_fast.kernels import moved

MASKED = -1e30  # added to the score of what is not seen; finite, so that no inf - inf can arise
ANOTHER_GROUP = 1 << 21  # products that take as long as the steps around them do (ours)


def cu_seqlens_of(lengths: Sequence[int] | Tensor) -> Tensor:
    """The cumulative lengths of n rows: where each begins, and where the last one ends, (n+1,) int64 on the host."""
    cu_seqlens = torch.zeros(len(lengths) + 1, dtype=torch.int64)
    torch.cumsum(torch.as_tensor(lengths, dtype=torch.int64), 0, out=cu_seqlens[1:])
    return cu_seqlens


def equal_cu_seqlens(rows: int, length: int) -> Tensor:
    """The cumulative lengths of `rows` rows of `length` each: (rows + 1,) int64 on the host."""
    return cu_seqlens_of(torch.full((rows,), length))


def ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """The index ranges `starts[i] .. starts[i] + lengths[i] - 1`, one after the other: (sum of lengths,) int64.

    `starts` and `lengths` are (n,) int64 on the host; a range may be empty.
    """
    cu_seqlens = cu_seqlens_of(lengths)
    shift = torch.repeat_interleave(starts - cu_seqlens[:-1], lengths)
    return shift + torch.arange(int(cu_seqlens[-1]))


@dataclass(frozen=True)
class PaddedView:
    """The queries, or the keys, of G rows padded to a width T.

    `first`: where the rows begin, if they stand back to back and are equally long: then nothing needs
    to be moved. Else `index` (G, T) int64 is the packed place of each padded one, where padding repeats
    its row's last, and `padded_places` and `packed_places` (n,) int64 say where the real ones stand: in the
    flattened padded rows, and packed.
    """

    shape: tuple[int, int]
    first: int | None
    index: Tensor
    padded_places: Tensor
    packed_places: Tensor

    @classmethod
    def of(cls, starts: Tensor, lengths: Tensor, device: torch.device) -> PaddedView:
        """The view whose rows own `starts[i] .. starts[i] + lengths[i] - 1`, on `device`."""
        width = int(lengths.max())
        index = starts[:, None] + torch.minimum(torch.arange(width)[None], lengths[:, None] - 1)
        even = bool((lengths == width).all() and (starts.diff() == width).all())
        padded_places = ranges(torch.arange(len(starts)) * width, lengths)
        packed_places = ranges(starts, lengths)
        return cls(
            (len(starts), width),
            int(starts[0]) if even else None,
            *(x.to(device, non_blocking=True) for x in (index, padded_places, packed_places)),
        )

    def pad(self, packed: Tensor, blank: bool = False) -> Tensor:
        """(n, H, c) as (G, H, T, c); padding holds copies, or zeros if `blank`."""
        if self.first is not None:
            rows, width = self.shape
            padded = packed[self.first : self.first + rows * width].unflatten(0, self.shape)
        elif blank:
            padded = packed.new_zeros(*self.shape, *packed.shape[1:])
            padded.flatten(0, 1).index_copy_(0, self.padded_places, packed[self.packed_places])
        else:
            padded = packed[self.index]
        return padded.transpose(1, 2)

    def store(self, padded: Tensor, packed: Tensor) -> None:
        """The inverse of `pad`: (G, H, T, c) to this view's places of `packed` (n, H, c)."""
        rows = padded.transpose(1, 2)
        if self.first is not None:
            packed[self.first : self.first + len(self.packed_places)].unflatten(0, self.shape).copy_(rows)
        else:
            packed.index_copy_(0, self.packed_places, rows.flatten(0, 1)[self.padded_places].to(packed.dtype))


@dataclass(frozen=True)
class PaddedGroup:
    """Rows of similar length, padded side by side. `bias`, added to every score, holds the position
    bias and masks what is padding: broadcastable to (G, H, Tq, Tk), fp32; None where there is neither.
    """

    queries: PaddedView
    keys: PaddedView
    bias: Tensor | None


class VarlenLayout:
    """The rows of one attention: `cu_seqlens_q` and `cu_seqlens_k` (B+1,) int64 on the host.

    `work` is how many products a pair of query and key takes: rows are grouped by it. `bias` (H, 2W - 1)
    fp32 holds the position bias by distance, key minus query, at W - 1 + distance, for W at least the
    longest row of keys; None: no position bias. Rows must not be empty. `max_seqlen`: a bound of the keys of
    a row; with it the cumulative lengths stand on `device` already, and `groups` is not to be had.
    """

    def __init__(
        self,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        device: torch.device,
        work: int,
        bias: Tensor | None = None,
        max_seqlen: int | None = None,
    ) -> None:
        self.cu_seqlens_q = cu_seqlens_q
        self.cu_seqlens_k = cu_seqlens_k
        self.device = device
        self.bias = bias
        self.work = work
        self._bound = max_seqlen

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """`cu_seqlens_k` on the device."""
        there = self._bound is not None
        return self.cu_seqlens_k if there else moved(self.cu_seqlens_k, self.device)

    @cached_property
    def max_seqlen(self) -> int:
        """The most keys of a row, or the bound that was given."""
        return int(self.cu_seqlens_k.diff().max()) if self._bound is None else self._bound

    @cached_property
    def groups(self) -> list[PaddedGroup]:
        """All rows, in groups that waste little; made at first use, once a batch."""
        q_lengths, k_lengths = self.cu_seqlens_q.diff(), self.cu_seqlens_k.diff()
        groups = []
        for rows in _alike(q_lengths.tolist(), k_lengths.tolist(), self.work):
            queries = PaddedView.of(self.cu_seqlens_q[rows], q_lengths[rows], self.device)
            keys = PaddedView.of(self.cu_seqlens_k[rows], k_lengths[rows], self.device)
            groups.append(PaddedGroup(queries, keys, self._bias(q_lengths[rows], k_lengths[rows])))
        return groups

    def _bias(self, q_lengths: Tensor, k_lengths: Tensor) -> Tensor | None:
        most_q, most_k = int(q_lengths.max()), int(k_lengths.max())
        queries, keys = torch.arange(most_q), torch.arange(most_k)
        even = bool((k_lengths == most_k).all())
        hidden = (keys[None] >= k_lengths[:, None])[:, None, None].to(self.device)
        if self.bias is None:
            return None if even else hidden.float() * MASKED
        # Both ends of a row coincide, so query i stands at place i + (Tk - Tq) of its row.
        shifts = (k_lengths - q_lengths).unique()
        shift = shifts if len(shifts) == 1 else k_lengths - q_lengths
        distance = keys[None, None] - queries[None, :, None] - shift[:, None, None]
        reach = self.bias.shape[1] // 2
        at = (distance + reach).clamp(0, 2 * reach).to(self.device)
        bias = self.bias[:, at].transpose(0, 1)
        return bias if even else bias.masked_fill(hidden, MASKED)


def _alike(q_lengths: list[int], k_lengths: list[int], work: int) -> list[list[int]]:
    """Rows in groups, so that the products of all padded pairs and the steps of all groups are few."""
    lengths = list(zip(q_lengths, k_lengths, strict=True))
    orders = (lambda row: lengths[row], lambda row: lengths[row][::-1])
    cuts = [_cut(lengths, sorted(range(len(lengths)), key=order), work) for order in orders]
    return min(cuts, key=lambda cut: cut[0])[1]


def _cut(lengths: list[tuple[int, int]], order: list[int], work: int) -> tuple[int, list[list[int]]]:
    """The rows in this order cut into groups: each joins the group before it, or begins another one,
    whichever costs less. All costs, in products; and the groups.
    """
    groups: list[list[int]] = []
    done = cost = most_q = most_k = 0
    for row in order:
        q, k = lengths[row]
        joint_q, joint_k = max(most_q, q), max(most_k, k)
        joint = ((len(groups[-1]) + 1) * joint_q * joint_k * work) if groups else 0
        alone = q * k * work + ANOTHER_GROUP
        if groups and joint - cost <= alone:
            groups[-1].append(row)
            cost, most_q, most_k = joint, joint_q, joint_k
        else:
            groups.append([row])
            done, cost, most_q, most_k = done + cost + ANOTHER_GROUP, q * k * work, q, k
    return done + cost, groups
