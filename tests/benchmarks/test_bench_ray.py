"""What is made of the seconds that Ray takes."""

from __future__ import annotations

import pytest

from benchmarks.bench_ray import WAYS, table


def test_starts_are_taken_off_and_repetitions_compared() -> None:
    steps = {"plain": [110.0, 210.0], "one machine": [124.0, 224.0], "two machines": [74.0, 124.0]}
    found = {(way, 1): [10.0 if way == "plain" else 20.0] * 2 for way in WAYS}
    found |= {(way, 400): steps[way] for way in WAYS}
    text, overhead, gain = table(found, 400)
    assert overhead == pytest.approx((104 / 100 + 204 / 200) / 2 - 1)
    assert gain == pytest.approx((104 / 54 + 204 / 104) / 2)
    assert "plain" in text and "overhead of one machine 3.0% (4.0%, 2.0%)" in text
