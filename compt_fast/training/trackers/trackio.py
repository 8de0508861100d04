"""Trackio's database: `TRACKIO_DIR=RUN/trackio trackio show`

Trackio keeps one folder a process: a second job of one Python program says so, and does without.
"""

from __future__ import annotations

import contextvars
import io
import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from compt_fast.training.trackers import PROJECT, Backend, Status, TrackedRun


class _Logged:
    def __init__(self, run: Any, last: Mapping[str, int]) -> None:
        self.last = last
        self._run = run

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self, status: Status) -> None:
        with redirect_stdout(io.StringIO()):
            self._run.finish()


def _open(run: TrackedRun) -> _Logged:
    run.folder.mkdir(exist_ok=True)
    named = os.environ.setdefault("TRACKIO_DIR", str(run.folder))  # read at its first import
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import trackio
    from trackio.sqlite_storage import SQLiteStorage
    from trackio.utils import TRACKIO_DIR

    if Path(named).absolute() != Path(TRACKIO_DIR).absolute():
        raise RuntimeError(f"trackio writes to {TRACKIO_DIR} as long as this program runs")
    last: dict[str, int] = {}
    for row in SQLiteStorage.get_logs(PROJECT, run.name):
        last |= dict.fromkeys(row, row["step"])
    with redirect_stdout(io.StringIO()):
        # In a context of its own, as `init` ends the run before it in the same context.
        opened = contextvars.Context().run(
            trackio.init,
            project=PROJECT,
            name=run.name,
            group=run.group,
            config=dict(run.config),
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
    return _Logged(opened, last)


ENTRY = Backend(_open, packages=("trackio",))
