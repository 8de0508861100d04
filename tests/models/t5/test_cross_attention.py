"""Absorbed and projected keys and values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compt_fast.models.api import open_trunk
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.models.t5.cross_attention import (
    AbsorbedCrossAttention,
    CrossAttention,
    ProjectedCrossAttention,
    cross_attention_for,
)
from compt_fast.models.t5.weights import Weights
from compt_fast.ops.linear_int8 import Int16Linear
from compt_fast.ops.varlen import cu_seqlens_of
from tests.helpers.tiny_t5 import make_t5


def opened(folder: Path) -> Weights:
    trunk = open_trunk("fast", str(make_t5(folder)))
    assert isinstance(trunk, PackedTrunk)
    return trunk.weights


def made(weights: Weights, queries: list[int], keys: list[int]) -> CrossAttention:
    """Of rows with so many tokens and states, the same ones for the same place."""
    wide = weights.embedding.shape[1]
    states = torch.randn(sum(keys), wide, generator=torch.Generator().manual_seed(0))
    return cross_attention_for(states, cu_seqlens_of(queries), cu_seqlens_of(keys), weights)


def test_what_takes_fewer_products_is_taken(tmp_path: Path) -> None:
    weights = opened(tmp_path)
    assert isinstance(made(weights, [1, 1], [50, 60]), AbsorbedCrossAttention)
    assert isinstance(made(weights, [90], [3]), ProjectedCrossAttention)


def test_in_int16_no_row_depends_on_what_shares_its_batch(tmp_path: Path) -> None:
    floats = opened(tmp_path)
    if not Int16Linear.here(floats.embedding):
        pytest.skip("needs products in int16")
    assert isinstance(made(floats, [2, 90], [40, 3]), ProjectedCrossAttention)
    weights = floats.to_int8(torch.float32)
    q = torch.randn(92, weights.heads, weights.head_dim, generator=torch.Generator().manual_seed(1))
    alone = made(weights, [2], [40]).forward(q[:2], 0)[0]
    beside = made(weights, [2, 90], [40, 3]).forward(q, 0)[0]
    assert torch.equal(alone, beside[:2])
