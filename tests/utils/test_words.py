"""Small things that messages and reports are made of."""

from __future__ import annotations

from compt_fast.utils.words import duration, listed, plural, short


def test_counts_and_lists_are_said_in_words() -> None:
    assert [plural(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert duration(125.4) == "2 min 5 s"


def test_embedded_tasks_are_named_without_their_prefix_where_all_have_it() -> None:
    assert short(["mini_rte", "mini_cola"]) == ["rte", "cola"]
    assert short(["mini_rte", "rte"]) == ["mini_rte", "rte"]
