"""How things of a report are named."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from itertools import count
from pathlib import Path

from compt_fast.utils.words import plural


def examples(shots: int | None) -> str:
    """'16 shots', or what stands for them where every example is taken."""
    return "all examples" if shots is None else plural(shots, "shot")


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
