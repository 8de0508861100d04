"""A whole checkpoint, and a copy of it for each test to spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.helpers.tiny_t5 import make_t5


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_t5(tmp_path_factory.mktemp("checkpoint") / "t5")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "trunk"))
