"""Importance of axes, against values of which it is known."""

from __future__ import annotations

from compt_fast.search.importance import importances
from tests.helpers.made_searches import made_search


def test_what_decides_the_value_comes_first() -> None:
    found = importances(made_search(60))
    assert next(iter(found)) == "lr_private" and found["lr_private"] > 0.6
    assert found["warmup"] < 0.1
    assert found.keys() == {"lr_private", "method", "warmup", "sources[method=spp]"}


def test_a_condition_is_looked_at_where_it_holds() -> None:
    """The sources decide everything, and most trials have none."""
    found = importances(made_search(60, lambda point: point.get("sources[method=spp]", 5)))
    assert found["sources[method=spp]"] > 0.95


def test_too_few_trials_have_none() -> None:
    assert importances(made_search(6)) == {}
