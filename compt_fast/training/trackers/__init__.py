"""Trackers: where curves and scores of runs go beside `metrics.jsonl`, one a file; `--track new-one` is `new_one.py`.

To add one, add such a file with `ENTRY = Backend(...)`. The first line of the file's docstring is what it does. An
entry's own package is imported when its first run is opened, and nothing leaves the machine unless the variables that
this package itself reads from the environment say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from compt_fast.utils.errors import InputError
from compt_fast.utils.registry import Registry

ORDER = ("tensorboard", "trackio", "wandb", "mlflow")
PROJECT = "compt_fast"
"""What runs are gathered under where a tracker keeps several projects."""
Status = Literal["finished", "stopped", "interrupted"]


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run when it is opened, anew or to go on.

    `folder` is the tracker's own, in the run folder of the job; `name` is unique there, `key` anywhere. `group` is the
    job's name.
    """

    folder: Path
    name: str
    key: str
    group: str
    config: Mapping[str, Any]


class Tracker(Protocol):
    """One tracked run. What it raises is a note to the user, and the end of this tracker for the job.

    `last` is, by a number's name, the latest step at which it stood there when the run was opened: of a job that was
    killed that may be less or more than its checkpoint knows. Nothing up to there is logged again.
    """

    last: Mapping[str, int]

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Note finite `numbers` by name, as of after `step` steps; the steps of a name ascend."""

    def close(self, status: Status) -> None:
        """The run has ended, or its job has been interrupted and may go on."""


@dataclass(frozen=True)
class Backend:
    """A tracker's `open(run)`, and the `packages` without which it cannot be imported."""

    open: Callable[[TrackedRun], Tracker]
    packages: tuple[str, ...]


TRACKERS: Registry[Backend] = Registry(__name__)


def check_trackers(names: list[str]) -> None:
    """Raise `InputError` for a tracker whose packages are missing."""
    for name in names:
        if any(find_spec(package) is None for package in TRACKERS[name].packages):
            raise InputError(f"--track {name} needs its extra: pip install 'compt-fast[{name}]'")
