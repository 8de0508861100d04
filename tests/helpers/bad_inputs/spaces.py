"""Spaces of a search, and the flags beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.helpers.bad_inputs import ANY_FILE, JSON_FILE, TEXT_FILE, Case, Make, Materials, spoilt_files
from tests.helpers.bad_inputs.settings import line

_SPACE: dict[str, Any] = {
    "lr_source": {"low": 0.1, "high": 0.3, "log": True},
    "gates": ["fixed", "learned"],
    "when": {"gates": {"learned": {"lr_router": [0.1, 0.2]}}},
}
_CONDITION = {"fixed": {"sources": [1]}, "fixed,learned": {"sources": [2]}}
_WAYS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown flag": ({"lr_sorce": [0.1]}, ("lr_sorce", "lr_source")),
    "job's flag": ({"batch_sizes": [1]}, ("batch_sizes", "batch_size")),
    "seeds": ({"seeds": [0, 1]}, ("--seeds",)),
    "unknown value": ({"gates": ["lerned"]}, ("lerned", "learned")),
    "nested value": ({"sources": [[1]]}, ("sources",)),
    "wide value": ({"sources": [10**60]}, ("sources",)),
    "true": ({"sources": [True, 2]}, ("sources",)),
    "empty": ({"sources": []}, ("sources",)),
    "twice": ({"sources": [1, "1"]}, ("sources", "twice")),
    "dashes twice": ({"lr-source": [0.1]}, ("lr_source", "twice")),
    "range backwards": ({"sources": {"low": 4, "high": 2}}, ("sources", "low")),
    "range of words": ({"init": {"low": 1, "high": 2}}, ("init",)),
    "range of nothing": ({"sources": {}}, ("sources", "low")),
    "unknown key of a range": ({"sources": {"low": 1, "hihg": 2}}, ("hihg", "high")),
    "step of nothing": ({"sources": {"low": 1, "high": 2, "step": 0}}, ("sources", "step")),
    "log of nothing": ({"lr_router": {"low": 0, "high": 1, "log": True}}, ("lr_router", "log")),
    "condition on a range": ({"when": {"lr_source": {"0.1": {}}}}, ("lr_source", "range")),
    "condition on nothing": ({"when": {"init": {"vocab": {}}}}, ("init",)),
    "condition that never holds": ({"when": {"gates": {"tied": {}}}}, ("tied",)),
    "condition twice": ({"when": {"gates": _CONDITION}}, ("fixed", "two tables")),
    "no table": ({"when": [1]}, ("when",)),
    "chosen twice": ({"lr_router": [0.1]}, ("lr_router", "twice")),
    "too long": ({"prompt_length": [2, 20_000]}, ("prompt_length 20000",)),
}


def _search(content: dict[str, Any], **changes: str) -> Make:
    def make(folder: Path) -> list[str]:
        (folder / "space.json").write_text(json.dumps(content))
        return line(folder, search="space.json", trials="1", confirm="0", **changes)

    return make


def cases(materials: Materials) -> Iterator[Case]:
    """Bad spaces, and flags that do not go with one."""
    yield from spoilt_files("space", "space.json", _search(_SPACE), ANY_FILE, TEXT_FILE, JSON_FILE)
    for way, (change, wanted) in _WAYS.items():
        yield Case(f"space/{way}", _search(_SPACE | change), ("space.json", *wanted))
    yield Case("space/several values", _search(_SPACE, lr_private="0.1,0.2"), ("--lr-private",))
    yield Case("space/no grid", _search(_SPACE, sampler="grid"), ("--sampler", "step"))


def sound(materials: Materials) -> Iterator[Case]:
    """A space with nothing wrong."""
    yield Case("space", _search(_SPACE), ())
