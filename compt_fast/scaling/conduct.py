"""A job trained by the trainers of a cluster: who gets which run, and the run folder, which this process alone writes.

What a run goes on from comes here with every checkpoint that a trainer makes, and so does every result: nothing is
lost with a trainer but its latest steps, and the folder is at every moment that of a job on one machine.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayTaskError

from compt_fast.config.choices import AUTO
from compt_fast.config.job import JobSettings
from compt_fast.runs.estimate import cost
from compt_fast.scaling.cluster import Spread
from compt_fast.scaling.messages import Assignment, Ended, Order, Report, Work
from compt_fast.scaling.pool import Device, Pool
from compt_fast.scaling.queue import next_runs, share_of, to_move
from compt_fast.training.budget import spent
from compt_fast.training.interrupts import Interrupted, Interrupts
from compt_fast.training.loop import Trainer
from compt_fast.training.monitor import Monitor
from compt_fast.training.plan import Run
from compt_fast.utils.cluster import gone, gpus_each
from compt_fast.utils.errors import InputError
from compt_fast.utils.files import new_folder
from compt_fast.utils.output import complain
from compt_fast.utils.words import plural

TICK = 0.5  # seconds between two looks at what else happens
SLICE = 1.0  # seconds that a trainer trains until it reports
LAST_WORD = 30.0  # seconds for which reports are waited for at the end
SPARED = 20  # of its time this process writes checkpoints in one part of so many
TRIES = 8  # trainers that may end while they hold a run, and bring it no further
FAILURES = 16  # trainers that end one after the other, with no report between: nothing works


class Conducted:
    """One job on a pool of trainers. `trainer` knows its runs and results, and holds all those that have begun."""

    def __init__(self, pool: Pool, trainer: Trainer, monitor: Monitor, interrupts: Interrupts, work: Work) -> None:
        for _, member in list(trainer.members):  # those of a checkpoint
            trainer.hold(member.run.id)
        trainer.scores = False
        self.pool, self.trainer, self.monitor, self.interrupts = pool, trainer, monitor, interrupts
        self._work = ray.put(work)
        self._developed: dict[str, dict[str, Any]] = {}  # of runs that others decide on now
        self._kept: set[str] = set()  # runs that ended on a trainer
        self._seen: tuple[object, ...] = ()  # how many runs there are, who ended otherwise, and who returns
        self._waiting: list[Run] = []
        self._tries: dict[str, tuple[int, int]] = {}  # by run: trainers that ended with it, and its step then
        self._failures = 0
        self._dirty, self._next_save = False, float("-inf")

    @property
    def left(self) -> int:
        """Runs that are to train on."""
        return 0 if self.trainer.closed else len(self.trainer.runs) - len(self.trainer.results)

    def step(self) -> bool:
        """Give out what there is, and hear what comes within a moment; False where, as decided, nobody is left."""
        self._decide()
        if not self.left:
            return False
        self.pool.fill(self.left)
        for device in self.pool:
            if device.call is None and device.work is not self._work:
                device.open(self._work)
        self._give()
        calls = {device.call: device for device in self.pool if device.call is not None}
        if not any(device.ready for device in self.pool):
            self.monitor.phase("waiting for a trainer")
        if not calls:
            time.sleep(TICK)
            return True
        ready, _ = ray.wait(list(calls), num_returns=1, timeout=TICK)
        for call in ready:
            self._hear(calls[call])
        if self._dirty and time.monotonic() > self._next_save:
            self.save()
        return True

    def save(self) -> None:
        """Write a checkpoint of all that has been reported."""
        began = time.monotonic()
        self.trainer.save(self.monitor)
        self._dirty, self._next_save = False, began + SPARED * (time.monotonic() - began)

    def halt(self) -> None:
        """Hear what every trainer has to say, and let no one train on."""
        busy = [device for device in self.pool if device.ready and device.call is not None]
        for device in busy:
            device.actor.interrupt.options(concurrency_group="aside").remote()
        calls = {device.call: device for device in busy}
        ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=LAST_WORD) if calls else ([], [])
        for call in ready:
            with suppress(InputError):  # what ends the job has been said
                self._hear(calls[call])

    def unchanged(self) -> bool:
        """Whether no trainer has changed its frozen trunk."""
        asked = [device.actor.unchanged.remote() for device in self.pool if device.ready]
        found = []
        for answer in asked:
            with suppress(*gone()):
                found.append(ray.get(answer))
        return all(found)

    # Runs that are given out and taken back

    def _give(self) -> None:
        """Let trainers that are not busy train what they have and what they get, and those without take over some."""
        together = sum(not run.alone for run in self._waiting)
        together += sum(not run.alone for device in self.pool for run in device.runs.values())
        share = share_of(together, self.pool.expected, self.trainer.settings.runs_at_once)
        idle = 0
        for device in self.pool:
            if device.call is not None or not device.ready:
                continue
            entering = next_runs(self._waiting, list(device.runs.values()), share)
            given = [run.id for run in entering]
            self._waiting = [run for run in self._waiting if run.id not in given]
            device.runs |= {run.id: run for run in entering}
            if not device.runs and not device.dropped:
                idle += 1
                continue
            order = Order([self._assignment(run) for run in entering], device.leaving, device.dropped, SLICE)
            device.leaving, device.dropped, device.since = [], [], time.monotonic()
            device.call = device.actor.train.remote(order)
        if idle and not self._waiting:
            self._move(idle)

    def _move(self, idle: int) -> None:
        coming = sum(bool(device.leaving) for device in self.pool)  # what is to be moved already waits here soon
        busy = [device for device in self.pool if device.runs and not device.leaving]
        for at, names in to_move([device.load(self._totals) for device in busy], idle - coming).items():
            busy[at].leaving = names

    def _assignment(self, run: Run) -> Assignment:
        trainer = self.trainer
        if run.id in trainer.returning:
            trainer.let_in(run.id)
            trainer.hold(run.id)
        held = trainer.held.get(run.id)
        seen = trainer.seen(run) if trainer.halves or trainer.settings.develops else {}
        start = {} if held else trainer.start(run)
        return Assignment(run, start, trainer.teachers(run), seen, held, trainer.control.until(trainer, run))

    def _wait_again(self) -> None:
        """Line up the runs that no trainer has: those that have begun, then the dearest."""
        trainer = self.trainer
        given = {name for device in self.pool for name in device.runs}
        runs = [run for run in trainer.waiting if run.id not in given and run.id not in self._developed]
        begun = trainer.held.keys() | trainer.returning.keys()
        self._totals = {run.id: trainer.steps_of(run) for run in trainer.runs}
        self._waiting = sorted(runs, key=lambda run: (run.id not in begun, -cost(trainer, run)))

    def _decide(self) -> None:
        """Let the job's control decide on the runs that have come to where it is to see them, and do what it wants.

        Once a budget is spent it sees all that train.
        """
        trainer = self.trainer
        over = spent(trainer)
        if over:
            self.halt()
        developed, self._developed = self._developed, {}
        for name, development in developed.items():
            member = trainer.let_in(name)
            member.developed = member.step, development
        for name in list(trainer.held) if over else ():
            trainer.let_in(name)
        trainer.decide(self.monitor, self.interrupts)
        for _, member in list(trainer.members):
            trainer.hold(member.run.id)
        for device in self.pool:
            device.drop(trainer.results.keys() | trainer.returning.keys())
        seen = len(trainer.runs), frozenset(trainer.results.keys() - self._kept), frozenset(trainer.returning)
        if developed or seen != self._seen:
            self._seen = seen
            self._wait_again()

    # What is heard

    def _hear(self, device: Device) -> None:
        """Take in what a trainer has to say.

        Raises `InputError` for what is wrong there, and where trainers end again and again.
        """
        call, device.call = device.call, None
        assert call is not None
        try:
            report = ray.get(call)
        except gone() as error:
            self._lost(device, error)
            return
        except RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise InputError(str(error.cause)) from None
            self._lost(device, error)  # a device that fails; what fails everywhere ends the job there
            return
        self._failures = 0
        if device.work is not self._work:
            return  # of a job before
        if isinstance(report, Report):
            self._take(device, report)
        else:
            device.ready = True

    def _take(self, device: Device, report: Report) -> None:
        """Take in a report, but for what it says of runs that the trainer is to drop."""
        trainer = self.trainer
        held = {name: of for name, of in report.held.items() if name in device.runs}
        trainer.held |= held
        trainer.begun |= {name: of.step for name, of in held.items()}
        self.monitor.keep([record for record in report.records if record["run"] in device.runs])
        for name, step, tasks, average in report.selected:
            if name in device.runs:
                self.monitor.selecting(name, step, tasks, average)
        for name, ended in report.ended.items():
            if name not in device.runs:
                continue
            self._keep(name, ended)
            done = f"({len(trainer.results)} of {plural(len(trainer.runs), 'run')} ended)"
            self.monitor.ended(ended.result, self._totals[name], f"{ended.result.says} {done}")
        if report.taken:
            device.pace = (time.monotonic() - device.since) / report.taken
        device.steps, device.losses, device.speed = dict(report.steps), report.losses, report.speed
        left = device.runs.keys() - report.steps.keys() - report.ended.keys()
        device.runs = {name: run for name, run in device.runs.items() if name in report.steps}
        device.leaving = [name for name in device.leaving if name in device.runs]
        self._developed |= {name: of for name, of in report.developed.items() if name in held}
        if left:
            self._wait_again()
        trainer.step += report.taken
        trainer.tokens += report.tokens
        self._dirty |= bool(report.held or report.ended)
        if report.ended:
            trainer.write_results()
        self._show()

    def _keep(self, name: str, ended: Ended) -> None:
        """Have what came of a run in the folder."""
        for kind, files in ended.files.items():
            with new_folder(self.trainer.folder / kind / name) as temporary:
                for file, content in files.items():
                    (temporary / file).write_bytes(content)
        self.trainer.results[name] = ended.result
        self._kept.add(name)
        self.trainer.held.pop(name, None)

    def _lost(self, device: Device, error: Exception) -> None:
        """A trainer has ended: its runs go on elsewhere, from where they were last heard of."""
        self.pool.remove(device)
        self._failures += 1
        if self._failures == FAILURES:
            raise InputError(f"--ray: {FAILURES} trainers ended, one after the other: {error}")
        for name in device.runs:
            step = self.trainer.begun.get(name, 0)
            before, at = self._tries.get(name, (0, step))
            tries = before + 1 if at == step else 1
            self._tries[name] = tries, step
            if tries == TRIES:
                raise InputError(f"--ray: {TRIES} trainers ended with {name} at step {step}, the last one so: {error}")
        if device.runs:
            what = f"its {plural(len(device.runs), 'run')} go on elsewhere"
            complain(f"note: a trainer ended ({type(error).__name__}); {what}, from where they were last heard of")
        self._wait_again()

    def _show(self) -> None:
        """Say how far the job is."""
        steps = {run: self._totals[run] if of.step is None else of.step for run, of in self.trainer.results.items()}
        steps |= {name: held.step for name, held in self.trainer.held.items()}
        losses, speed, runs = [], 0.0, 0
        for device in self.pool:
            if device.runs:
                steps |= device.steps
                losses += device.losses
                speed += device.speed
                runs += len(device.runs)
        self.monitor.phase("training")
        self.monitor.show(sum(steps.values()), losses, speed=speed, runs=runs)


class Scaled:
    """Trains jobs on a cluster that this process is connected to, one after another, on the same trainers."""

    def __init__(self, spread: Spread) -> None:
        self._spread = spread
        self._pool: Pool | None = None

    def settled(self, settings: JobSettings) -> JobSettings:
        """The settings of a job for this process, which trains nothing: the trunk's numbers are those that the trainers
        compute in. Raises `InputError` where the cluster has no room for one.
        """
        gpus = gpus_each(settings.device)
        if self._pool is None or self._pool.gpus != gpus:
            self.close()
            self._pool = Pool(self._spread, gpus)
        dtype = "bf16" if gpus and settings.dtype == AUTO else settings.dtype
        return replace(settings, dtype=dtype, device=AUTO if settings.device == "cuda" else settings.device)

    def train(self, trainer: Trainer, monitor: Monitor, interrupts: Interrupts) -> None:
        """As `Trainer.train`, by the trainers of the cluster. Raises `InputError` for what is wrong with them."""
        assert self._pool is not None
        trainer.begin()
        settings = replace(trainer.settings, device="cuda" if self._pool.gpus else "cpu")
        conducted = Conducted(
            self._pool, trainer, monitor, interrupts, Work(settings, trainer.trunk_hash, trainer.data.tasks)
        )
        try:
            while conducted.step():
                interrupts.check()
        except Interrupted:
            conducted.halt()
            raise
        except InputError:
            conducted.save()
            raise
        if not conducted.unchanged():
            raise RuntimeError("a weight of the frozen trunk has changed during training: its results are void")
        conducted.save()

    def close(self) -> None:
        """End the trainers."""
        if self._pool is not None:
            self._pool.close()

    def __str__(self) -> str:
        assert self._pool is not None
        return f"on {plural(self._pool.wanted, 'trainer')} of a cluster, each of {self._spread.says(self._pool.gpus)}"
