"""Requests drawn from the interface's own description, right ones and wrong ones: none is answered by a 500."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from compt_fast.prediction.predictor import Predictor
from tests.helpers.serving import AS_ADMIN, running

pytest.importorskip("schemathesis", reason="needs schemathesis")

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_no_request_is_answered_by_an_error_of_the_server(offline: Predictor, artifacts: Path, tmp_path: Path) -> None:
    flags = [f"--checks={CHECKS}", "--phases=examples,coverage,fuzzing", "--max-examples=60", "--mode=all"]
    flags += ["--seed=0", "--generation-database=none", "--no-color", "--warnings=off"]
    flags += [f"--header={name}: {value}" for name, value in AS_ADMIN.items()]
    with running(offline, root=artifacts) as server:
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", *flags],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=tmp_path,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        generated, passed = map(int, re.findall(r"(\d+) generated, (\d+) passed", done.stdout)[0])
        assert generated == passed > 250
        assert server.service.batcher.alive and server.service.batcher.idle
        answered = server.service.metrics.text().decode()
        assert 'path="/v1/predict",status="200"' in answered and 'status="500"' not in answered
