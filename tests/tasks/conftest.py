"""Rows that the tests of tasks share."""

from pathlib import Path

import pytest

from tests.helpers.hub_rows import write_hub


@pytest.fixture(scope="session")
def written_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All data sets in the hub's layout, with rows of our own."""
    return write_hub(tmp_path_factory.mktemp("hub"))
