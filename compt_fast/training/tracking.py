"""What trackers are told: the curve of each run, the scores, and how it ended. They never end a training."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compt_fast.config.job import JOB_FLAGS, JobSettings
from compt_fast.training.plan import Run
from compt_fast.training.results import RunResult
from compt_fast.training.trackers import TRACKERS, Status, TrackedRun, Tracker
from compt_fast.utils.files import write_json
from compt_fast.utils.inputs import read_object
from compt_fast.utils.output import complain

RECORD = "tracked.json"


@dataclass
class Tracking:
    """The trackers of one job.

    `folder` is the run folder of the whole job, in which each tracker has its own, and `stage` the name of that of a
    job before it. `run_of` gives a run, perhaps added since, by its id. One tracker
    that fails says so once, and the others go on.
    """

    folder: Path
    settings: JobSettings
    run_of: Callable[[str], Run]
    stage: str = ""
    begun: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._going = list(self.settings.track)
        self._open: dict[str, dict[str, Tracker]] = {name: {} for name in self._going}  # by run
        self._id = ""

    def step(self, records: Sequence[Mapping[str, Any]]) -> None:
        """The curves' points of one step, the records of `metrics.jsonl`; each `track_every` steps of a run count."""
        for record in filter(self._counts, records):
            self._log(record["run"], record["step"], _point(record))

    def _counts(self, record: Mapping[str, Any]) -> bool:
        return record["step"] == 1 or record["step"] % self.settings.track_every == 0

    def scores(self, run: str, step: int, kind: str, tasks: Mapping[str, Any], average: float) -> None:
        """What a run scored after `step` steps; `tasks` as `evaluation` gives them."""
        each = {
            f"{kind}/{name}/{metric}": value for name, task in tasks.items() for metric, value in task["scores"].items()
        }
        self._log(run, step, {f"{kind}/average": average} | each)

    def ended(self, result: RunResult, step: int) -> None:
        """What came of a run after `step` steps, with its final scores."""
        if result.average is not None:
            self.scores(result.id, step, "final", result.tasks, result.average)
        self._close([result.id], "finished" if result.status == "finished" else "stopped")

    def close(self) -> None:
        """The job goes no further now; what had not ended may go on."""
        self._close(list({run for opened in self._open.values() for run in opened}), "interrupted")

    def _close(self, runs: Sequence[str], status: Status) -> None:
        def close(name: str) -> None:
            for tracker in [self._open[name].pop(run) for run in runs if run in self._open[name]]:
                tracker.close(status)

        self._each(close)

    def _log(self, run: str, step: int, numbers: Mapping[str, float | None]) -> None:
        def log(name: str) -> None:
            if run not in self._open[name]:
                self._open[name][run] = tracker = TRACKERS[name].open(self._tracked(name, run))
                for record in self._past(run):
                    _new(tracker, record["step"], _point(record))
            _new(self._open[name][run], step, numbers)

        self._each(log)

    def _past(self, run: str) -> list[dict[str, Any]]:
        """The points of a run before the checkpoint that the job goes on from, of which a kill may have lost some."""
        begun = self.begun.get(run, 0)
        if not begun:
            return []
        with (self.folder / self.stage / "metrics.jsonl").open(encoding="utf-8") as lines:
            known = (json.loads(line) for line in lines if line.endswith("\n"))
            return [
                record for record in known if record["run"] == run and record["step"] <= begun and self._counts(record)
            ]

    def _each(self, act: Callable[[str], None]) -> None:
        """Ask each tracker; what one raises, whatever it is, is a note, and it is not asked again."""
        for name in list(self._going):
            try:
                act(name)
            except Exception as error:
                self._going.remove(name)
                self._open[name].clear()
                why = (str(error) or type(error).__name__).splitlines()[0]
                complain(f"note: --track {name} has failed ({why}); the training goes on without it")

    def _tracked(self, tracker: str, run_id: str) -> TrackedRun:
        """What a tracker is told of a run."""
        run = self.run_of(run_id)
        name = f"{self.stage}/{run_id}" if self.stage else run_id
        key = hashlib.sha256(f"{self._job_id()}/{name}".encode()).hexdigest()[:16]
        job = {flag.field: getattr(self.settings, flag.field) for flag in JOB_FLAGS.values() if not flag.free}
        group = self.folder.absolute().name
        return TrackedRun(self.folder / tracker, name, key, group, job | run.config.to_json())

    def _job_id(self) -> str:
        """What tells this job from every other, whatever its folder is called: drawn once, and kept."""
        if not self._id:
            path = self.folder / RECORD
            if not path.is_file():
                write_json(path, {"id": uuid.uuid4().hex})
            self._id = str(read_object(path, "the ids of tracked runs")["id"])
        return self._id


def _point(record: Mapping[str, Any]) -> dict[str, float | None]:
    """What is tracked of a record of `metrics.jsonl`."""
    rates = {f"learning_rate/{group}": rate for group, rate in record["learning_rate"].items()}
    return {name: record[name] for name in ("loss", "gradient_norm", "tokens_per_second")} | rates


def _new(tracker: Tracker, step: int, numbers: Mapping[str, float | None]) -> None:
    """Log those of the numbers that do not stand there already; what is not finite is none."""
    finite = {name: value for name, value in numbers.items() if value is not None and math.isfinite(value)}
    new = {name: value for name, value in finite.items() if step > tracker.last.get(name, 0)}
    if new:
        tracker.log(step, new)
