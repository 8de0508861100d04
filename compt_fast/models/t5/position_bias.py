"""T5's relative position bias, by distance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from compt_fast.ops.varlen import MASKED


@dataclass
class PositionBias:
    """T5's relative position bias: `table` (buckets, H) as the checkpoint has it.

    Of the buckets, an encoder's first half is for keys at or before the query and its second half for
    those behind; a decoder sees no key behind the query. Half of the buckets of a direction hold one
    distance each, the others grow logarithmically up to `max_distance`.
    """

    table: Tensor
    bidirectional: bool
    max_distance: int

    def by_distance(self, width: int) -> Tensor:
        """The bias (H, 2 width - 1) fp32 of a key at distance d from its query, at width - 1 + d."""
        distance = torch.arange(1 - width, width)
        bias = self.table.float()[self._buckets(distance).to(self.table.device)].T.contiguous()
        if not self.bidirectional:
            bias[:, width:] = MASKED
        return bias

    def _buckets(self, distance: Tensor) -> Tensor:
        count = len(self.table) // 2 if self.bidirectional else len(self.table)
        away = distance.abs() if self.bidirectional else (-distance).clamp(min=0)
        exact = count // 2
        # In fp32, in this order: a distance at the border of two buckets must fall where it was trained.
        share = torch.log(away.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        far = (exact + (share * (count - exact)).long()).clamp(max=count - 1)
        bucket = torch.where(away < exact, away, far)
        return bucket + count * (distance > 0) if self.bidirectional else bucket
