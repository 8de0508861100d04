"""A trainer on a device of a cluster: a process with a trunk, which trains whatever runs it is given.

It writes nothing but into a folder of its own, which ends with it: what it has done it reports.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from compt_fast.models.api import Trunk
from compt_fast.runs.alone import alone
from compt_fast.runs.job import Job, named_trunk
from compt_fast.scaling.messages import Assignment, Ended, Order, Report, Selected, Work
from compt_fast.tasks.examples import JobData
from compt_fast.training.cohort import Held
from compt_fast.training.control import Uncontrolled
from compt_fast.training.interrupts import Interrupted, Interrupts
from compt_fast.training.loop import Trainer
from compt_fast.training.monitor import Monitor
from compt_fast.utils.errors import InputError, out_of_memory
from compt_fast.utils.files import remove_folder
from compt_fast.utils.words import plural

KEPT = ("prompts", "weights")  # folders of a run folder that hold a folder a run


class Gathering(Monitor):
    """Keeps the records of each run's steps until they are asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 0, Console(quiet=True))
        self._records: dict[str, list[dict[str, Any]]] = {}
        self._selected: dict[str, list[Selected]] = {}
        self.losses: list[float] = []  # of the latest step
        self.speed = 0.0

    def step(self, records: list[dict[str, Any]], *, speed: float) -> None:
        for record in records:
            self._records.setdefault(record["run"], []).append(record)
        self.losses = [record["loss"] for record in records if record["loss"] is not None]
        self.speed = speed

    def selecting(self, run: str, step: int, tasks: dict[str, Any], average: float) -> None:
        self._selected.setdefault(run, []).append((run, step, tasks, average))

    def selected(self, run: str) -> list[Selected]:
        """The development scores of a run since the last call."""
        return self._selected.pop(run, [])

    def taken(self, run: str) -> list[dict[str, Any]]:
        """The records of a run since the last call."""
        return self._records.pop(run, [])


class Leaving(Uncontrolled):
    """Takes runs out `after` some of their steps, scored on their development samples."""

    def __init__(self) -> None:
        super().__init__("leaving")
        self.after: dict[str, int | None] = {}
        self.left: dict[str, tuple[Held, dict[str, Any]]] = {}

    def act(self, trainer: Trainer, monitor: Monitor, interrupts: Interrupts) -> None:
        here = [(cohort, member) for cohort, member in trainer.members if self.after.get(member.run.id) == member.step]
        names = [member.run.id for _, member in here]
        for name, development in zip(names, trainer.develop(here, monitor, interrupts), strict=True):
            trainer.hold(name)
            self.left[name] = trainer.held.pop(name), development
            trainer.runs = [run for run in trainer.runs if run.id != name]


class Worker:
    """The trunk of one device, and a trainer over it. Every call is of the process that conducts the job."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._temporary = tempfile.TemporaryDirectory(prefix="compt-fast-")
        self._folder = Path(self._temporary.name)
        self._interrupts = Interrupts()
        self._trunk: Trunk | None = None
        self._of: tuple[object, ...] = ()
        self._assigned: dict[str, Assignment] = {}

    def open(self, work: Work) -> None:
        """Be ready for the runs of a job; the trunk stays where the job before had the same.

        Raises `InputError` where the trunk is not there, or is another one.
        """
        torch.set_num_threads(self._threads)
        self._interrupts = Interrupts()
        settings = work.settings
        of = (settings.model, settings.engine, settings.dtype, settings.device, settings.prompt_position)
        if self._trunk is None or of != self._of:
            self._trunk = None  # before another takes its memory
            self._trunk, self._of = named_trunk(settings), of
        if (own := self._trunk.fingerprint()) != work.trunk_hash:
            raise InputError(
                f"{settings.model}: on this machine its weights have the sha256 {own}, and the job's "
                f"{work.trunk_hash}: every machine of the cluster needs the same checkpoint"
            )
        data = JobData(work.tasks, settings, self._trunk.tokenizer)
        job = Job(settings, self._trunk, work.trunk_hash, data, [])
        self._trainer = Trainer(
            [],
            self._trunk,
            work.trunk_hash,
            data,
            settings,
            self._folder,
            start=lambda run: dict(self._assigned[run.id].start),
            seen=lambda run: self._assigned[run.id].seen,
            teachers=lambda run: self._assigned[run.id].teachers,
            alone=partial(alone, job),
            control=(leaving := Leaving()),
        )
        self._leaving = leaving
        self._monitor = Gathering(self._folder)

    def train(self, order: Order) -> Report:
        """Do what is ordered, until a run ends, a checkpoint is due or the time is over.

        Raises `InputError` where memory runs out.
        """
        torch.set_num_threads(self._threads)  # of this thread, which need not be that of the last call
        trainer, until = self._trainer, time.monotonic() + order.seconds
        left = self._taken_out(order.leave)
        for name in self._taken_out(order.drop):
            self._monitor.taken(name)
            self._monitor.selected(name)
        self._enter(order.enter)
        first, tokens, due = trainer.step, trainer.tokens, False
        try:
            while not due and trainer.advance(self._monitor, self._interrupts):
                due = trainer.due
                self._interrupts.check()
                if trainer.results or self._leaving.left or time.monotonic() > until:
                    break
        except Interrupted:
            due = True
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise InputError(
                f"out of memory with {plural(len(self._assigned), 'run')} side by side: go on with a lower "
                "--runs-at-once"
            ) from None
        ended = {name: Ended(result, self._files(name)) for name, result in trainer.results.items()}
        left |= {name: held for name, (held, _) in self._leaving.left.items()}
        held = left | (trainer.snapshot() if due else {})
        report = Report(
            {member.run.id: member.step for _, member in trainer.members},
            held,
            ended,
            [record for name in (*held, *ended) for record in self._monitor.taken(name)],
            self._monitor.losses,
            self._monitor.speed,
            {name: development for name, (_, development) in self._leaving.left.items()},
            trainer.step - first,
            trainer.tokens - tokens,
            [one for name in (*held, *ended) for one in self._monitor.selected(name)],
        )
        self._forget([*ended, *self._leaving.left])
        self._leaving.left = {}
        return report

    def interrupt(self) -> None:
        """Let `train` end as soon as it can: it reports all that its runs go on from."""
        self._interrupts.ask(signal.SIGTERM)

    def unchanged(self) -> bool:
        """Whether the frozen trunk has the weights that it began with."""
        assert self._trunk is not None
        return self._trunk.fingerprint() == self._trainer.trunk_hash

    def close(self) -> None:
        """Remove what it wrote."""
        self._temporary.cleanup()

    def _taken_out(self, names: Sequence[str]) -> dict[str, Held]:
        """Runs that are no more of this trainer: all that they go on from, of those that are here."""
        trainer = self._trainer
        for name in [member.run.id for _, member in trainer.members if member.run.id in names]:
            trainer.hold(name)
        out = {name: trainer.held.pop(name) for name in names if name in trainer.held}
        self._forget(out.keys())
        return out

    def _enter(self, assignments: Sequence[Assignment]) -> None:
        self._assigned |= {of.run.id: of for of in assignments}
        self._trainer.add([of.run for of in assignments])
        self._trainer.held |= {of.run.id: of.held for of in assignments if of.held is not None}
        self._trainer.changed = False  # it has no checkpoints
        self._leaving.after |= {of.run.id: of.until for of in assignments}

    def _files(self, run: str) -> dict[str, dict[str, bytes]]:
        """The files that were written of a run, which go from here."""
        found = {}
        for kind in KEPT:
            folder = self._folder / kind / run
            if folder.is_dir():
                found[kind] = {path.name: path.read_bytes() for path in folder.iterdir()}
                remove_folder(folder)
        return found

    def _forget(self, runs: Collection[str]) -> None:
        trainer = self._trainer
        trainer.runs = [run for run in trainer.runs if run.id not in runs]
        for name in runs:
            trainer.results.pop(name, None)
            del trainer.rows[name], self._assigned[name], self._leaving.after[name]
