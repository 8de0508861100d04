"""Tasks that the fleet's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.jobs import toy_task


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files of three small tasks: two of classes, one of a score."""
    folder = tmp_path_factory.mktemp("toys")
    return [
        toy_task(folder, "toy_a"),
        toy_task(folder, "toy_b"),
        toy_task(folder, "toy_c", score=True),
    ]
