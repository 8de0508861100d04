"""Bad input to the commands: no traceback, no hang, exit code 2 and one line that names the culprit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CASES = 150  # drawn from all, of which `python -m tools.bad_inputs` runs every one


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> list[dict[str, Any]]:
    """What the commands made of good inputs and of a sample of bad ones."""
    path = tmp_path_factory.mktemp("bad_inputs") / "verdicts.json"
    command = [sys.executable, "-m", "tools.bad_inputs", f"--count={CASES}", "--seed=0", f"--json={path}"]
    ended = subprocess.run(command, cwd=repository, env=os.environ, capture_output=True, text=True, timeout=1800)
    assert ended.returncode in (0, 1), ended.stderr
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


def test_what_is_wrong_is_refused_and_named(verdicts: list[dict[str, Any]]) -> None:
    bad = [verdict for verdict in verdicts if verdict["code"] != 0 or verdict["fault"]]
    assert len(bad) == CASES
    assert [verdict for verdict in bad if verdict["fault"]] == []


def test_what_is_right_is_taken(verdicts: list[dict[str, Any]]) -> None:
    sound = verdicts[: len(verdicts) - CASES]
    assert {verdict["name"].split("/")[0] for verdict in sound} >= {"config", "task", "rows", "model", "store", "run"}
    assert {verdict["code"] for verdict in sound} == {0}
