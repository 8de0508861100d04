"""The versions of Triton that kernels are bound and compiled with: the installed one, and the oldest that is supported.

The oldest lies in the folder that COMPT_FAST_OLD_TRITON names, from `pip install --no-deps --target FOLDER
triton==3.6.0`; `.ci/run` puts it there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
OLD = os.environ.get("COMPT_FAST_OLD_TRITON")
OLD_TRITON = pytest.mark.skipif(not OLD, reason="COMPT_FAST_OLD_TRITON names no folder with triton 3.6")
BOTH = ["installed", pytest.param("3.6", marks=OLD_TRITON)]


def python(triton: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python process with Triton "installed" or "3.6", whose kernels are compiled and not interpreted."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    if triton != "installed":
        assert OLD is not None and Path(OLD, "triton").is_dir(), f"no triton in {OLD}"
        environment["PYTHONPATH"] = OLD
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=600
    )
