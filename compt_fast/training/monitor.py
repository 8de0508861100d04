"""What a job tells while it works: `metrics.jsonl`, trackers, and progress, as a bar or in plain lines."""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from compt_fast.training.results import RunResult
from compt_fast.training.tracking import Tracking
from compt_fast.utils.output import OutputError
from compt_fast.utils.words import duration, plural

EVERY = 30.0  # seconds from one plain line of progress to the next


class Monitor:
    """Writes one object a step and run to `metrics.jsonl`; shows a bar on a terminal, or in a notebook that has
    ipywidgets, and elsewhere, as in a log file, prints a line now and then and at each run's end.
    """

    def __init__(self, folder: Path, total_steps: int, console: Console, tracking: Tracking | None = None) -> None:
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._folder = folder
        self._tracking = tracking
        self._has_bar = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TextColumn("{task.fields[speed]:,.0f} tokens/s"),
            TextColumn("{task.fields[alive]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._has_bar,
        )
        self._bar = self.progress.add_task("training", total=total_steps, loss=float("nan"), speed=0.0, alive="")
        self._console = console
        self._began = self._said = time.monotonic()

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OutputError):  # nothing more can be shown, and what ends the job is said elsewhere
            self.progress.stop()
        self._file.close()
        if self._tracking is not None:
            self._tracking.close()

    @property
    def offset(self) -> int:
        """Bytes of `metrics.jsonl` so far, which are on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def rewind(self, offset: int, done: int) -> None:
        """Forget what a checkpoint does not know: cut the file to `offset` bytes, the bar to `done`
        steps. Of a file that is shorter a last line that is not whole goes too.
        """
        if self.offset < offset:
            offset = (self._folder / "metrics.jsonl").read_bytes().rfind(b"\n") + 1
        self._file.truncate(offset)
        self._file.seek(offset)
        self.progress.update(self._bar, completed=done)

    def step(self, records: list[dict[str, Any]], *, speed: float) -> None:
        """One training step: a record a run, and tokens per second of the whole batch."""
        self.keep(records)
        losses = [record["loss"] for record in records if record["loss"] is not None]
        done = self.progress.tasks[self._bar].completed + len(records)
        self.show(int(done), losses, speed=speed, runs=len(records))

    def keep(self, records: list[dict[str, Any]]) -> None:
        """Write what steps gave, a record a step and run."""
        for record in records:
            self._file.write(json.dumps(record) + "\n")
        if self._tracking is not None:
            self._tracking.step(records)

    def show(self, done: int, losses: list[float], *, speed: float, runs: int) -> None:
        """How far the job is: steps that are done, the losses of the latest, tokens per second, runs in training."""
        mean = sum(losses) / len(losses) if losses else float("nan")
        self.progress.update(self._bar, completed=done, loss=mean, speed=speed, alive=plural(runs, "run"))
        self._say_now_and_then()

    def expect(self, total_steps: int) -> None:
        """From now so many steps are the whole."""
        self.progress.update(self._bar, total=total_steps)

    def phase(self, text: str) -> None:
        """What is going on from now."""
        self.progress.update(self._bar, description=text)
        self._say_now_and_then()

    def selecting(self, run: str, step: int, tasks: dict[str, Any], average: float) -> None:
        """What a run scored on its development sample after `step` steps."""
        if self._tracking is not None:
            self._tracking.scores(run, step, "development", tasks, average)

    def ended(self, result: RunResult, step: int, text: str) -> None:
        """What came of a run after `step` steps, as `text` says."""
        if self._tracking is not None:
            self._tracking.ended(result, step)
        self.say(text)

    def say(self, text: str) -> None:
        """A line of text, where there is no bar."""
        if not self._has_bar:
            self._console.print(text, soft_wrap=True)

    def _say_now_and_then(self) -> None:
        """A line of progress where there is no bar, unless one was said a moment ago."""
        now = time.monotonic()
        if self._has_bar or now - self._said < EVERY:
            return
        self._said = now
        task = self.progress.tasks[self._bar]
        loss, alive = task.fields["loss"], task.fields["alive"]
        parts = [f"{task.description}: {task.completed:,.0f} of {task.total:,.0f} steps ({task.percentage:.0f} %)"]
        parts += [f"loss {loss:.3f}"] if math.isfinite(loss) else []
        parts += [f"{task.fields['speed']:,.0f} tokens/s", f"{alive} side by side"] if alive else []
        self._console.print(", ".join([*parts, f"{duration(now - self._began)} so far"]), soft_wrap=True)
