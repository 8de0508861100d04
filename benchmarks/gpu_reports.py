"""A plugin of pytest that notes each failure as it comes, so that a time-out takes none of them."""

from __future__ import annotations

import pytest

from benchmarks.gpu_steps import note


class Failures:
    """Notes the name of a test that failed and the end of why."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            note(test=report.nodeid, why=report.longreprtext[-700:])


def pytest_configure(config: pytest.Config) -> None:
    """In the process that collects the reports, not in those that run tests for it."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Failures())
