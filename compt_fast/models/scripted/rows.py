"""Rows of unlike lengths in packed tensors, for TorchScript: cumulative lengths on the host, padding on a device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from compt_fast.models.engines.fast import CACHED_TOKENS
from compt_fast.ops.varlen import MASKED

PADDED_SCORES = 1 << 27  # attention scores of all heads that exist at a time off the CPU (ours)


class Padding(NamedTuple):
    """B packed rows side by side, padded to the longest, T: `at` (B, T) int64 is the packed place of each padded
    one, where padding repeats its row's last; the real ones stand at `places` (n,) int64 of the flattened padded rows;
    `hidden` (B, 1, 1, T) fp32, added to scores, hides what is padding. All on the device.
    """

    at: Tensor
    places: Tensor
    hidden: Tensor


def cu_seqlens_of(lengths: Tensor) -> Tensor:
    """The cumulative lengths (n+1,) of n rows."""
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """The index ranges `starts[i] .. starts[i] + lengths[i] - 1`, one after the other; all (n,) int64 on the host."""
    cu_seqlens = cu_seqlens_of(lengths)
    return torch.repeat_interleave(starts - cu_seqlens[:-1], lengths) + torch.arange(int(cu_seqlens[-1]))


def padding_of(cu_seqlens: Tensor, device: torch.device, masked: float = MASKED) -> Padding:
    """The padding of rows with these cumulative lengths (B+1,) on the host; none of the rows is empty."""
    starts, lengths = cu_seqlens[:-1], cu_seqlens.diff()
    width = int(lengths.max())
    steps = torch.arange(width)
    at = starts[:, None] + torch.minimum(steps[None], lengths[:, None] - 1)
    places = ranges(torch.arange(len(lengths)) * width, lengths)
    hidden = (steps[None] >= lengths[:, None])[:, None, None].to(torch.float32) * masked
    return Padding(at.to(device), places.to(device), hidden.to(device))


def no_padding() -> Padding:
    """That of rows which stay packed."""
    none = torch.zeros(0, dtype=torch.int64)
    return Padding(none, none, none)


def pad(packed: Tensor, padding: Padding) -> Tensor:
    """(n, H, c) as (B, H, T, c)."""
    return packed[padding.at].transpose(1, 2)


def unpad(padded: Tensor, padding: Padding) -> Tensor:
    """The inverse: (B, H, T, c) as (n, H, c)."""
    return padded.transpose(1, 2).flatten(0, 1)[padding.places]


def chunks_by_tokens(cu_seqlens: Tensor, most: int = CACHED_TOKENS) -> list[tuple[int, int]]:
    """The first row of each chunk and the one after its last: as many rows as have `most` tokens, or one."""
    ends: list[int] = cu_seqlens.tolist()
    found: list[tuple[int, int]] = []
    first = 0
    for row in range(1, len(ends)):
        if row == len(ends) - 1 or ends[row + 1] - ends[first] > most:
            found.append((first, row))
            first = row
    return found


def chunks_by_scores(cu_seqlens: Tensor, heads: int, most: int = PADDED_SCORES) -> list[tuple[int, int]]:
    """The same, of as many rows as have `most` scores of `heads` once all are as long as the longest."""
    rows, longest = len(cu_seqlens) - 1, int(cu_seqlens.diff().max())
    step = max(1, most // (heads * longest * longest))
    return [(first, min(first + step, rows)) for first in range(0, rows, step)]


def distances(bias: Tensor, distance: Tensor) -> Tensor:
    """The position bias (H, ...) fp32 of distances, key minus query, from `bias` (H, 2 R + 1): at R + distance.

    Keys further away than R have the bias of R, in T5's last bucket.
    """
    reach = bias.shape[1] // 2
    at = (distance.clamp(-reach, reach) + reach).to(bias.device)
    return bias.index_select(1, at.flatten()).unflatten(1, distance.shape)
