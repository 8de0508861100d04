"""Whether what is installed is what CI tries, which `constraints.txt` pins."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

WATCHED = ("torch", "transformers", "triton", "numpy", "datasets")
"""Those whose deprecations the tests meet."""


def untried(constraints: Path) -> list[str]:
    """`NAME VERSION` of each of `WATCHED` that is installed in another version than is pinned; a local part, as in
    `2.13.0+cpu`, does not count.
    """
    pinned = dict(re.findall(r"^([\w-]+)==([^\s+]+)", constraints.read_text(encoding="utf-8"), re.MULTILINE))
    found = []
    for name in WATCHED:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if version.partition("+")[0] != pinned[name]:
            found.append(f"{name} {version}")
    return found
