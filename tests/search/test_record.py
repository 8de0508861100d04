"""The record of a search on the disk, and the interval that it reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from compt_fast.search.record import NAME, Interval, Record
from compt_fast.utils.errors import InputError
from tests.helpers.made_searches import made_search


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert Record.read(tmp_path) is None
    made = made_search()
    (tmp_path / NAME).write_text(json.dumps(made.to_json()))
    assert Record.read(tmp_path) == made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"sorces": [2]}}, "unknown flag in {}: space: 'sorces'"),
        ({"space": []}, "space must be an object"),
        ({"sampler": "tpf"}, "unknown sampler in {}: 'tpf'. Did you mean 'tpe'"),
        ({"trials": [{"number": 0}]}, "trial 0: point is missing"),
        ({"trials": [{"number": 1, "point": {}, "runs": []}]}, "trial 0: not one of this space"),
        ({"trials": [{"number": 0, "point": {"sources": 2}, "runs": []}]}, "trial 0: not one of this space"),
        ({"confirming": None}, "confirming must be a list"),
    ],
)
def test_a_damaged_one_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / NAME
    path.write_text(json.dumps(made_search(5).to_json() | changes))
    with pytest.raises(InputError) as refused:
        Record.read(tmp_path)
    assert message.format(path) in str(refused.value)


def test_an_interval_holds_the_mean_as_often_as_it_says() -> None:
    """Of 4000 samples of five numbers 95 % have the true mean in their interval, within three standard errors."""
    drawn = np.random.default_rng(0).normal(70.0, 3.0, size=(4000, 5))
    found = [Interval.of(list(row)) for row in drawn]
    held = np.mean([abs(one.mean - 70.0) <= one.half for one in found if one.half is not None])
    assert abs(held - 0.95) < 3 * (0.95 * 0.05 / 4000) ** 0.5
    low, high = stats.t.interval(0.95, 4, loc=drawn[0].mean(), scale=stats.sem(drawn[0]))
    assert found[0].half == pytest.approx((high - low) / 2)
    assert str(Interval(70.0, 1.25)) == "70.0 ± 1.2 (68.8 to 71.2)" and str(Interval.of([70.0])) == "70.0"
