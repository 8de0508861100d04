"""Deprecations are errors where the versions are those that CI tries, and nowhere else."""

from __future__ import annotations

import importlib.metadata
import warnings
from pathlib import Path

import pytest

from tests.helpers.versions import WATCHED, untried


def test_other_versions_are_named(tmp_path: Path) -> None:
    here = {name: importlib.metadata.version(name).partition("+")[0] for name in WATCHED}
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in here.items()))
    assert untried(constraints) == []
    constraints.write_text("".join(f"{name}=={here[name]}.1\n" for name in WATCHED))
    assert untried(constraints) == [f"{name} {importlib.metadata.version(name)}" for name in WATCHED]


def test_a_deprecation_is_an_error_with_the_tried_versions(repository: Path) -> None:
    tried = not untried(repository / "constraints.txt")
    with pytest.raises(DeprecationWarning) if tried else pytest.warns(DeprecationWarning):
        warnings.warn("soon gone", DeprecationWarning, stacklevel=1)
