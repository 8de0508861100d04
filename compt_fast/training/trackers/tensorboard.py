"""TensorBoard's event files: `tensorboard --logdir RUN/tensorboard`"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from compt_fast.training.trackers import Backend, Status, TrackedRun

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class _Events:
    def __init__(self, writer: SummaryWriter, last: Mapping[str, int]) -> None:
        self.last = last
        self._writer = writer

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self, status: Status) -> None:
        self._writer.close()


def _open(run: TrackedRun) -> _Events:
    from torch.utils.tensorboard import SummaryWriter

    folder = run.folder / run.name
    last = _read(folder) if folder.is_dir() else {}
    writer = SummaryWriter(str(folder), flush_secs=10)
    if not last:
        table = "\n".join(f"| {name} | {value} |" for name, value in run.config.items())
        writer.add_text("config", f"| {run.group} | {run.name} |\n|---|---|\n{table}", 0)
    return _Events(writer, last)


def _read(folder: Path) -> dict[str, int]:
    """The latest step of each number in a folder's files, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={SCALARS: 1}).Reload()
    return {tag: events.Scalars(tag)[-1].step for tag in events.Tags()[SCALARS]}


ENTRY = Backend(_open, packages=("tensorboard",))
