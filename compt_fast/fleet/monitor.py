"""What a job tells while it works: `metrics.jsonl`, TensorBoard, and progress on a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Monitor:
    """Writes one object a step and run to `metrics.jsonl`; shows a bar on a terminal."""

    def __init__(self, folder: Path, total_steps: int, console: Console, *, tensorboard: bool) -> None:
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._folder = folder
        self._writers: dict[str, Any] | None = {} if tensorboard else None
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TextColumn("{task.fields[speed]:,.0f} tokens/s"),
            TextColumn("{task.fields[alive]} runs"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._bar = self.progress.add_task("training", total=total_steps, loss=float("nan"), speed=0.0, alive=0)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()
        self._file.close()
        for writer in (self._writers or {}).values():
            writer.close()

    @property
    def offset(self) -> int:
        """Bytes of `metrics.jsonl` so far."""
        self._file.flush()
        return self._file.tell()

    def rewind(self, offset: int, done: int) -> None:
        """Forget what a checkpoint does not know: cut the file to `offset` bytes, the bar to `done`
        steps.
        """
        offset = min(offset, self.offset)
        self._file.truncate(offset)
        self._file.seek(offset)
        self.progress.update(self._bar, completed=done)

    def step(self, records: list[dict[str, Any]], *, speed: float) -> None:
        """One training step: a record a run, and tokens per second of the whole batch."""
        for record in records:
            self._file.write(json.dumps(record) + "\n")
            self._events(record)
        losses = [record["loss"] for record in records if record["loss"] is not None]
        mean = sum(losses) / len(losses) if losses else float("nan")
        self.progress.update(self._bar, advance=len(records), loss=mean, speed=speed, alive=len(records))

    def phase(self, text: str) -> None:
        """What the bar says is going on."""
        self.progress.update(self._bar, description=text)

    def _events(self, record: dict[str, Any]) -> None:
        if self._writers is None:
            return
        run = record["run"]
        if run not in self._writers:
            from torch.utils.tensorboard import SummaryWriter  # an optional package

            # What an interrupted job wrote of steps that are taken again is to be forgotten.
            self._writers[run] = SummaryWriter(str(self._folder / "tensorboard" / run), purge_step=record["step"])
        for name in ("loss", "gradient_norm"):
            if record[name] is not None:
                self._writers[run].add_scalar(name, record[name], record["step"])
        for group, rate in record["learning_rate"].items():
            self._writers[run].add_scalar(f"learning_rate/{group}", rate, record["step"])
