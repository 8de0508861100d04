"""Rows of unlike lengths: cumulative lengths and index ranges."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compt_fast.ops.varlen import cu_seqlens_of, equal_cu_seqlens, ranges


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_cumulative_lengths_are_running_sums(sizes: list[int]) -> None:
    assert cu_seqlens_of(sizes).tolist() == [sum(sizes[:i]) for i in range(len(sizes) + 1)]


def test_rows_of_equal_lengths() -> None:
    assert equal_cu_seqlens(3, 4).tolist() == [0, 4, 8, 12]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 4)), max_size=6))
def test_ranges_are_listed_one_after_the_other(pairs: list[tuple[int, int]]) -> None:
    starts = torch.tensor([start for start, _ in pairs], dtype=torch.int64)
    sizes = torch.tensor([size for _, size in pairs], dtype=torch.int64)
    expected = [index for start, size in pairs for index in range(start, start + size)]
    assert ranges(starts, sizes).tolist() == expected
