"""Small things that the sentences of a report are made of."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from itertools import count
from pathlib import Path


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def plural(count: int, noun: str) -> str:
    """'1 run', '3 runs'."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def examples(shots: int | None) -> str:
    """'8 shots'; 'all examples' for None."""
    return "all examples" if shots is None else f"{shots} shots"


def slug(text: str) -> str:
    """A text as the stem of a file: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def unused(text: str, taken: Container[str], between: str) -> str:
    """`text` or, where that is taken, `text` with the first number from 2 on that makes it another."""
    return text if text not in taken else next(s for k in count(2) if (s := f"{text}{between}{k}") not in taken)


def told_apart(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for each of different absolute paths: its last parts, as few as no other path ends in."""
    named = {}
    for path in paths:
        k = 1
        while sum(other.parts[-k:] == path.parts[-k:] for other in paths) > 1:
            k += 1
        named[path] = Path(*path.parts[-k:]).as_posix()
    return named
