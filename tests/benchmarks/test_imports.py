"""Benchmarks and tools are run by hand, so that no test would notice what has been renamed beneath them."""

from importlib import import_module
from pathlib import Path

import pytest

import benchmarks
import tools

MODULES = sorted(
    f"{package.__name__}.{file.stem}"
    for package in (benchmarks, tools)
    for folder in package.__path__
    for file in Path(folder).glob("*.py")
    if file.stem not in ("__init__", "conftest")
)


@pytest.mark.parametrize("name", MODULES)
def test_it_is_imported(name: str) -> None:
    assert import_module(name).__doc__
