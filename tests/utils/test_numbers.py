"""How numbers are written."""

from __future__ import annotations

import pytest

from compt_fast.utils.numbers import integer, number


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("-12", -12), ("+3", 3), ("9" * 18, 10**18 - 1), ("007", 7)])
def test_whole_numbers(text: str, value: int) -> None:
    assert integer(text) == value


@pytest.mark.parametrize(
    "text", ["", " 1", "1_0", "\uff11", "\u0663", "9" * 19, "9" * 10**6, "1.0", "1e3", "0x1", "--1", "1\n"]
)
def test_what_is_no_whole_number(text: str) -> None:
    with pytest.raises(ValueError, match="is no whole number"):
        integer(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3.0), ("-0.5", -0.5), (".5", 0.5), ("5.", 5.0), ("1e-3", 1e-3), ("+2E4", 2e4), ("1e-999", 0.0)],
)
def test_decimal_numbers(text: str, value: float) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    "text",
    ["", ".", "1,5", "nan", "inf", "-Infinity", "1e999", "1_0.0", "\uff11", "0x1p3", "1e", "e1", "9" * 401, "1\n"],
)
def test_what_is_no_decimal_number(text: str) -> None:
    with pytest.raises(ValueError, match="is no finite number"):
        number(text)
