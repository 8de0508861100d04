"""Small things that messages and reports are made of."""

from __future__ import annotations

from compt_fast.words import duration, listed, plural


def test_counts_and_lists_are_said_in_words() -> None:
    assert [plural(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert duration(125.4) == "2 min 5 s"
