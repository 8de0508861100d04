"""Small things that messages and reports are made of."""

from __future__ import annotations

from collections.abc import Sequence


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def plural(count: int, noun: str) -> str:
    """'1 run', '3 runs'."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def duration(seconds: float) -> str:
    """Minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def short(names: Sequence[str]) -> list[str]:
    """Task names for tables and figures: without `mini_` where all begin with it."""
    if all(name.startswith("mini_") for name in names):
        return [name.removeprefix("mini_") for name in names]
    return list(names)
