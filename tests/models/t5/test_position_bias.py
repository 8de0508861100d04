"""The relative position bias against transformers'."""

from __future__ import annotations

import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from compt_fast.models.t5.position_bias import PositionBias
from compt_fast.ops.varlen import MASKED


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (32, 64), (16, 128)])
def test_position_buckets_are_those_of_transformers(bidirectional: bool, buckets: int, furthest: int) -> None:
    table = torch.arange(buckets, dtype=torch.float32)[:, None].expand(-1, 2)
    found = PositionBias(table, bidirectional, furthest).by_distance(600)
    distance = torch.arange(-599, 600)
    wanted = T5Attention._relative_position_bucket(distance, bidirectional, buckets, furthest)
    seen = slice(None) if bidirectional else slice(0, 600)
    assert torch.equal(found[:, seen], wanted.float()[None].expand(2, -1)[:, seen])
    if not bidirectional:
        assert (found[:, 600:] == MASKED).all()
