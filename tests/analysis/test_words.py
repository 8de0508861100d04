"""What names and sentences are made of."""

from __future__ import annotations

from pathlib import Path

from compt_fast.analysis.words import examples, told_apart, unused


def test_folders_are_named_by_as_little_as_tells_them_apart() -> None:
    paths = [Path(p) for p in ("/runs/a/glue", "/runs/b/glue", "/runs/set2", "/old/b/store", "/new/b/store", "/glue")]
    assert list(told_apart(paths).values()) == ["a/glue", "b/glue", "set2", "old/b/store", "new/b/store", "/glue"]
    assert told_apart([]) == {}


def test_a_taken_name_gets_the_first_number_that_is_free() -> None:
    assert unused("a", {"b"}, "-") == "a"
    assert unused("a", {"a", "a-2"}, "-") == "a-3"


def test_shots_in_words() -> None:
    assert [examples(8), examples(None)] == ["8 shots", "all examples"]
