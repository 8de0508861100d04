"""A pytest plugin: in CI (CI=true) a skip fails the run, unless the machine could not have run the test."""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

ALLOWED = (
    "needs a CUDA device",
    "needs two CUDA devices",
    "there is a GPU",
    "needs nvcc",
    "needs compute-sanitizer",
    "compute-sanitizer does not support this device",
    "no trained t5-base prompts in COMPT_FAST_SHARED",
)
"""Reasons that are a machine's: hardware, its vendor's tools, data that lie in no repository. What a package manager
could bring (a browser, an extra, a compiler) is none.
"""

_refused: list[str] = []


def pytest_configure() -> None:
    """A new run has refused nothing."""
    _refused.clear()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a test that was skipped for another reason."""
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note a file that was skipped for another reason."""
    _note(report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run with such skips has failed."""
    if _refused and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Name them."""
    if _refused:
        terminalreporter.section("skips that CI does not allow", red=True)
        for line in _refused:
            terminalreporter.line(line)


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = re.sub("^Skipped: ", "", text)
    if reason not in ALLOWED:
        _refused.append(f"{report.nodeid}: {reason}")
