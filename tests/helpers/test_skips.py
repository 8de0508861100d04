"""In CI no test is skipped that the machine could have run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.skips import ALLOWED

HEAD = "import pytest\n\ndef test_runs(): pass\n\n"


def run(folder: Path, test: str, ci: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(HEAD + test)
    repository = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.helpers.skips", "-p", "no:cacheprovider", "."]
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"CI": ci, "PYTHONPATH": str(repository)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("test", "refused"),
    [
        (f"@pytest.mark.skip(reason={ALLOWED[0]!r})\ndef test_a(): pass\n", ""),
        ("@pytest.mark.xfail\ndef test_a(): assert False\n", ""),
        (
            "@pytest.mark.skip(reason='no browser here (x)')\ndef test_a(): pass\n",
            "test_it.py::test_a: no browser here",
        ),
        ("def test_a(): pytest.skip('too lazy')\n", "test_it.py::test_a: too lazy"),
        ("pytest.importorskip('no_such_module')\n", "test_it.py: could not import 'no_such_module'"),
    ],
)
def test_a_skip_that_ci_does_not_allow_fails_the_run(test: str, refused: str, tmp_path: Path) -> None:
    done = run(tmp_path, test, "true")
    assert done.returncode == (1 if refused else 0), done.stdout
    assert ("skips that CI does not allow" in done.stdout) == bool(refused) and refused in done.stdout


def test_elsewhere_any_skip_passes(tmp_path: Path) -> None:
    assert run(tmp_path, "def test_a(): pytest.skip('too lazy')\n", "").returncode == 0
