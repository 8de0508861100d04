"""In CI no test is skipped that the machine could have run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.skips import ALLOWED

FORCED = f"""
import pytest
@pytest.mark.skip(reason={ALLOWED[0]!r})
def test_a(): pass
@pytest.mark.xfail
def test_b(): assert False
def test_c(): pass
"""
LAZY = """
import pytest
@pytest.mark.skip(reason='no browser here (x)')
def test_a(): pass
def test_b(): pytest.skip('too lazy')
"""
LACKING = "import pytest\npytest.importorskip('no_such_module')\n"


def run(folder: Path, ci: str, **files: str) -> subprocess.CompletedProcess[str]:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    repository = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.helpers.skips", "-p", "no:cacheprovider", "."]
    settings = {"CI": ci, "PYTHONPATH": str(repository), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        command, cwd=folder, env=os.environ | settings, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


def test_a_skip_that_ci_does_not_allow_fails_the_run(tmp_path: Path) -> None:
    done = run(tmp_path, "true", test_forced=FORCED, test_lazy=LAZY, test_lacking=LACKING)
    assert done.returncode == 1
    _, _, named = done.stdout.partition("skips that CI does not allow")
    refused = [line.split(": ")[0] for line in named.splitlines() if line.startswith("test_")]
    assert sorted(refused) == ["test_lacking.py", "test_lazy.py::test_a", "test_lazy.py::test_b"], done.stdout
    assert "test_lazy.py::test_b: too lazy" in named


def test_a_skip_that_the_machine_forces_passes(tmp_path: Path) -> None:
    done = run(tmp_path, "true", test_forced=FORCED)
    assert done.returncode == 0 and "1 skipped" in done.stdout and "does not allow" not in done.stdout


def test_elsewhere_any_skip_passes(tmp_path: Path) -> None:
    assert run(tmp_path, "", test_lazy=LAZY).returncode == 0
