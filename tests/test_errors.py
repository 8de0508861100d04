"""Messages about values that are not known."""

from __future__ import annotations

from compt_fast.errors import InputError, unknown


def test_the_near_miss_is_named() -> None:
    error = unknown("task", "mini_ret", ["mini_rte", "mini_cola"])
    assert isinstance(error, InputError) and isinstance(error, ValueError)
    assert str(error) == ("unknown task 'mini_ret'. Did you mean 'mini_rte'? Known: mini_rte, mini_cola.")


def test_without_a_near_miss_all_are_listed() -> None:
    assert str(unknown("suite", "xyz", ["glue", "set2"])) == ("unknown suite 'xyz'. Known: glue, set2.")
