"""Budgets as they are written."""

from __future__ import annotations

import pytest

from compt_fast.config.budget import Budget


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("90s", Budget(seconds=90)),
        ("30m", Budget(seconds=1800)),
        ("1.5h", Budget(seconds=5400)),
        ("2d", Budget(seconds=172800)),
        ("2e6tokens", Budget(tokens=2e6)),
        ("500 tokens", Budget(tokens=500)),
        ("none", Budget()),
        (None, Budget()),
    ],
)
def test_what_is_written(text: str | None, budget: Budget) -> None:
    assert Budget.of(text) == budget


@pytest.mark.parametrize("text", ["", "30", "m", "-1m", "0m", "1e9999tokens", "30 minutes", "2e6token", "nan s"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(ValueError):
        Budget.of(text)


def test_when_nothing_is_left() -> None:
    assert not Budget().spent(1e9, 10**12)
    assert not Budget(seconds=60).spent(59.9, 10**12) and Budget(seconds=60).spent(60, 0)
    assert not Budget(tokens=100).spent(1e9, 99) and Budget(tokens=100).spent(0, 100)
