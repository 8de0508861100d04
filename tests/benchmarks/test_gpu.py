"""The script for a GPU, which is not here: its steps exist, and each leaves its line whatever becomes of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks import gpu, gpu_steps

WAITED = [step for step in gpu.STEPS if not step.beside]


def script(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": sys.executable} | variables
    command = [folder / "benchmarks" / "gpu.sh", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_every_step_is_there_and_they_end_in_time() -> None:
    asked = {step.name for step in gpu.STEPS if not step.command}
    assert asked | {"small"} == set(gpu_steps.STEPS)
    assert {step.name for step in gpu.STEPS if step.beside} <= {step.name for step in WAITED}
    assert sum(step.seconds for step in WAITED) <= 12 * 60


def test_a_rehearsal_leaves_a_line_a_step(repository: Path, tmp_path: Path) -> None:
    """Every one is cut short before it has done much."""
    done = script(repository, OUT=str(tmp_path), LIMIT="0.02")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [step.name for step in WAITED]
    assert "timed out" in {line["status"] for line in lines} <= {"timed out", "cannot go on", "done"}
    assert {path.name for path in tmp_path.iterdir()} == {"results.jsonl", "log.txt"}


def test_a_step_that_cannot_go_on_says_why(repository: Path, tmp_path: Path) -> None:
    done = script(repository, "kernel_tests", OUT=str(tmp_path), CUDA_VISIBLE_DEVICES="")
    (line,) = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    assert done.returncode == 0 and (line["status"], line["said"]) == ("cannot go on", "no CUDA device")
    done = script(repository, "kernel_test", OUT=str(tmp_path))
    assert done.returncode == 2 and "no step kernel_test; there are versions, install" in done.stderr


def test_what_travels_with_the_checkout_is_prepared(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    shutil.copy(repository / "benchmarks" / "gpu.sh", tmp_path / "benchmarks")
    for name in ("hub", "t5-tokenizer", "else"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "file").write_text(name)
    assert script(tmp_path, "--prepare", str(tmp_path / "data")).returncode == 0
    prepared = {str(path.relative_to(tmp_path / ".gpu")) for path in (tmp_path / ".gpu").rglob("file")}
    assert prepared == {"shared/hub/file", "shared/t5-tokenizer/file"}
    done = script(tmp_path, "--prepare", str(tmp_path / "nowhere"))
    assert done.returncode == 2 and "nowhere/hub" in done.stderr
