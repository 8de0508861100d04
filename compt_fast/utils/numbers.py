"""The one way in which numbers are written: in flags, in configuration files, and in cells of data."""

from __future__ import annotations

import math
import re

# ASCII digits alone: Python's own `int` and `float` also take 0_1, full-width digits and, of any length,
# numbers that take minutes to read.
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_LONGEST = 400  # characters: the longest float64 written out without an exponent has fewer


def integer(text: str) -> int:
    """A whole number of up to 18 digits, such as 16 or -1. Raises `ValueError` for anything else."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text[:_LONGEST]!r} is no whole number")
    return int(text)


def number(text: str) -> float:
    """A finite decimal number, such as 3, -0.5 or 1e-3. Raises `ValueError` for anything else."""
    if len(text) > _LONGEST or not _DECIMAL.fullmatch(text) or not math.isfinite(float(text)):
        raise ValueError(f"{text[:_LONGEST]!r} is no finite number")
    return float(text)
