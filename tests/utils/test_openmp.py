"""Threads that wait for one another do not spin away the processor that they wait for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compt_fast.utils.openmp import CHOICES, SPIN_COUNT, bound_spinning

SERIAL = 2
"""CPU seconds with two threads over those with one, at most: 1.1 measured, and 6 with libgomp's own spinning."""
MAPS = Path("/proc/self/maps")
needs_libgomp = pytest.mark.skipif(
    not MAPS.is_file() or "libgomp" not in MAPS.read_text(),
    reason="torch has no libgomp here",
)
needs_two_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core runs one thread at a time")


def started(*line: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """A Python process where the user chose nothing but `changes`."""
    chosen = {name: value for name, value in os.environ.items() if name not in CHOICES}
    done = subprocess.run(
        [sys.executable, *line], env=chosen | changes, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def before_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nobody had imported torch yet."""
    monkeypatch.delitem(sys.modules, "torch")


def test_spinning_is_bounded_before_torch_is_imported(before_torch: None) -> None:
    environment: dict[str, str] = {}
    bound_spinning(environment)
    assert environment == {"GOMP_SPINCOUNT": str(SPIN_COUNT)}


@pytest.mark.parametrize("name", CHOICES)
def test_what_the_user_chose_stays(before_torch: None, name: str) -> None:
    environment = {name: "his own"}
    bound_spinning(environment)
    assert environment == {name: "his own"}


def test_nothing_is_set_that_would_not_hold() -> None:
    environment: dict[str, str] = {}
    bound_spinning(environment)  # torch is imported: libgomp has read its environment
    assert environment == {}


@needs_libgomp
def test_libgomp_takes_the_bound() -> None:
    """What the library itself says that it goes by."""
    said = started("-c", "import compt_fast, torch", OMP_DISPLAY_ENV="verbose").stderr
    assert f"GOMP_SPINCOUNT = '{SPIN_COUNT}'" in said


@needs_libgomp
@needs_two_cores
def test_a_second_thread_costs_no_processor_beside_busy_loops(tmp_path: Path) -> None:
    """CPU time, as spinning takes it: seconds on the wall would depend on what else the machine does."""
    said = started("-m", "tests.helpers.contention", str(tmp_path), OMP_NUM_THREADS="2", MKL_NUM_THREADS="2").stdout
    one, two = (json.loads(said)[threads] for threads in ("1", "2"))
    assert two < SERIAL * one
