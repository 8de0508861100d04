"""What TorchScript has of packed rows: biases beyond the table's reach, chunks, padding."""

from __future__ import annotations

import pytest
import torch

from compt_fast.models.scripted.rows import (
    chunks_by_scores,
    chunks_by_tokens,
    cu_seqlens_of,
    distances,
    pad,
    padding_of,
    unpad,
)
from compt_fast.models.t5.position_bias import PositionBias


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 20), (64, 300)])
def test_a_table_of_the_greatest_distance_serves_longer_rows(
    bidirectional: bool, buckets: int, max_distance: int
) -> None:
    bias = PositionBias(torch.randn(buckets, 3), bidirectional, max_distance)
    table = bias.by_distance(max_distance + 1)
    for width in (1, 5, max_distance, max_distance + 1, 3 * max_distance):
        got = distances(table, torch.arange(1 - width, width))
        assert torch.equal(got, bias.by_distance(width))


def test_chunks_hold_what_fits_or_one_row() -> None:
    cu_seqlens = cu_seqlens_of(torch.tensor([3, 3, 9, 1, 1]))
    assert chunks_by_tokens(cu_seqlens, 6) == [(0, 2), (2, 3), (3, 5)]
    assert chunks_by_tokens(cu_seqlens, 99) == [(0, 5)]
    assert chunks_by_scores(cu_seqlens, 2, 2 * 9 * 9 * 2) == [(0, 2), (2, 4), (4, 5)]
    assert chunks_by_scores(cu_seqlens, 2, 1) == [(row, row + 1) for row in range(5)]


def test_padding_hides_what_is_none() -> None:
    padding = padding_of(torch.tensor([0, 2, 5]), torch.device("cpu"))
    packed = torch.randn(5, 2, 4)
    padded = pad(packed, padding)
    assert padded.shape == (2, 2, 3, 4) and torch.equal(padded[0, :, 2], packed[1])
    assert torch.equal(unpad(padded, padding), packed)
    assert (padding.hidden[:, 0, 0] < 0).tolist() == [[False, False, True], [False, False, False]]
