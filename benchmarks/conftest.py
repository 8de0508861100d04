"""`--short`: of the benchmarks those that take a few minutes."""

from __future__ import annotations

from typing import Any

import pytest

LONG = ("test_ladder", "test_memory")


def pytest_addoption(parser: pytest.Parser) -> None:
    """On the command line beside pytest's own."""
    parser.addoption("--short", action="store_true", help="one run, and no t5-base; neither ladder nor memory")


def is_short(item: pytest.Item) -> bool:
    """Whether a benchmark is one of them."""
    given: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    one = given.get("size") != "t5-base" and given.get("runs", 1) == 1
    return one and item.name.partition("[")[0] not in LONG


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the others out."""
    if config.getoption("--short"):
        config.hook.pytest_deselected(items=[item for item in items if not is_short(item)])
        items[:] = filter(is_short, items)
