"""The runs of a job: who waits, who trains, who was stopped, and who has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from compt_fast.config.choices import HALVINGS
from compt_fast.config.job import JobSettings
from compt_fast.config.presets import RANDOM
from compt_fast.models.api import Trunk
from compt_fast.prompts.artifact import RunPrompts
from compt_fast.prompts.shape import PromptShape
from compt_fast.tasks.examples import JobData, ScoredRows, Seen, TrainingRow, seen_nothing
from compt_fast.training import stopped
from compt_fast.training.about import about_run
from compt_fast.training.cohort import Cohort, Held, Member
from compt_fast.training.distillation import TeachersOf, no_teachers
from compt_fast.training.graphs import Graphs, captures
from compt_fast.training.identity import Identity
from compt_fast.training.plan import Run
from compt_fast.training.results import RunResult
from compt_fast.utils.errors import InputError, unknown

Start = Callable[[Run], dict[str, Tensor]]
"""A run's parameters that start from stored values, by name and without a run axis."""
SeenBy = Callable[[Run], Seen]
"""The training rows that a run's stored values were trained on, which no development sample of it may hold."""
Record = Callable[[Sequence[Run]], None]
"""Writes down runs that are added to a job, so that the job knows them when it goes on."""


def from_nothing(run: Run) -> dict[str, Tensor]:
    """The start of a run that needs no stored prompts; `ValueError` for one that does."""
    if run.config.source_init != RANDOM or run.config.private_init != RANDOM:
        raise ValueError(f"{run.id} starts from stored prompts, and the trainer was given none")
    return {}


def unrecorded(runs: Sequence[Run]) -> None:
    """Of a trainer whose job does not go on."""


def none_alone(run: Run) -> Cohort:
    """The cohort of a run that changes the trunk, where nothing makes one."""
    raise ValueError(f"{run.id} trains weights of the trunk, and the trainer was given nothing that does")


@dataclass
class Roster:
    """The `runs` of a job and their state; `settings.runs_at_once` of them train side by side.

    `start` gives what a run's prompts start from where that is stored, `seen` the rows that it was
    trained on, `teachers` the prompts that it learns from. Runs that train alone come after the others, one at a time,
    each in a cohort that `alone` makes; runs that are added, `record` writes down. `results` are of the runs that have
    ended; those that were stopped and go on once there is room are `returning`, with the steps that they have taken.
    `held` are those that have begun and are in no cohort: they enter before others, and go on where they were.
    Of a job that goes on, `begun` holds the steps of the runs that were midway.
    """

    runs: list[Run]
    trunk: Trunk
    trunk_hash: str
    data: JobData
    settings: JobSettings
    folder: Path
    start: Start = from_nothing
    seen: SeenBy = seen_nothing
    teachers: TeachersOf = no_teachers
    alone: Callable[[Run], Cohort] = none_alone
    record: Record = unrecorded
    cohorts: list[Cohort] = field(default_factory=list)
    results: dict[str, RunResult] = field(default_factory=dict)
    begun: dict[str, int] = field(default_factory=dict)
    returning: dict[str, int] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    closed: bool = False  # nobody enters any more
    changed: bool = False  # runs were stopped, resumed or added, and no checkpoint knows of it
    midway: bool = False  # an error left a change of runs or parameters half done: nothing to save

    def __post_init__(self) -> None:
        self.graphs: Graphs | None = None
        if self.settings.cuda_graphs and captures(self.trunk):
            self.graphs = Graphs(self.trunk)
        self.rows: dict[str, list[TrainingRow]] = {}
        self._know(self.runs)

    def _know(self, runs: Sequence[Run]) -> None:
        self.rows |= {run.id: self.data.training(run.config) for run in runs}
        for run in runs if self.wanting else ():
            self.check_development(run)

    @property
    def identity(self) -> Identity:
        """What tells the job's files from another's."""
        return Identity.of(self.trunk_hash, self.settings, self.runs)

    @property
    def total_steps(self) -> int:
        """Steps of all runs together."""
        return sum(self.steps_of(run) for run in self.runs)

    def steps_left(self, run: Run) -> int:
        """Training steps that a run needs beyond those of the checkpoint that `note_results` knows."""
        return 0 if run.id in self.results else self.steps_of(run) - self.begun.get(run.id, 0)

    def steps_of(self, run: Run) -> int:
        """Training steps of a run."""
        return run.steps(len(self.rows[run.id]))

    @property
    def steps_to_come(self) -> int:
        """Steps of all runs, of those that were stopped the steps until then."""
        stops = {name: result.step for name, result in self.results.items() if result.step is not None}
        return sum(stops.get(run.id, self.steps_of(run)) for run in self.runs)

    @property
    def members(self) -> Iterator[tuple[Cohort, Member]]:
        """The runs in training, each with its cohort."""
        return ((cohort, member) for cohort in self.cohorts for member in cohort.members)

    @property
    def ended(self) -> list[RunResult]:
        """Results of the runs that have ended, in the plan's order."""
        return [self.results[run.id] for run in self.runs if run.id in self.results]

    @property
    def waiting(self) -> list[Run]:
        """The runs that wait for room: those that go on, then those that have not begun, in the plan's order; those
        that train alone last.
        """
        begun = {member.run.id for _, member in self.members} | self.results.keys()
        going_on = [*self.held, *self.returning]
        new = [run for run in self.runs if run.id not in begun.union(going_on)]
        return sorted([*map(self.run_of, going_on), *new], key=lambda run: run.alone)

    def run_of(self, name: str) -> Run:
        """The run of this id; `InputError` for one that the job has not."""
        for run in self.runs:
            if run.id == name:
                return run
        raise unknown("run", name, [run.id for run in self.runs])

    @property
    def halves(self) -> bool:
        """Whether runs that do worse than others are stopped early."""
        return self.settings.halve in HALVINGS

    @property
    def wanting(self) -> str:
        """The flag that asks for development samples, "" where none does."""
        asks = {
            "--select best": self.settings.select == "best",
            "--halve": self.halves,
            "--search": self.settings.search,
        }
        return next((flag for flag, does in asks.items() if does), "")

    def check_development(self, run: Run) -> None:
        """Raise `InputError` where a run has no rows to be compared or selected on."""
        for sample in self.development_of(run):
            if not sample.inputs:
                raise InputError(
                    f"{run.id}: {self.wanting} needs training rows of {sample.task.name} beyond the shots and those "
                    "that its stored prompts were trained on, and there are none; lower --shots or --source-examples, "
                    f"or leave out {self.wanting}"
                )

    def development_of(self, run: Run) -> list[ScoredRows]:
        """The rows that the best of a run's weights are selected on, those of each of its tasks."""
        return self.data.development(run.config, self.seen(run))

    @contextmanager
    def _change(self) -> Iterator[None]:
        """A change of several parts, after which they belong together again."""
        self.midway = True
        yield
        self.midway = False  # not so after an error

    # Runs that enter and leave

    def stop(self, name: str, reason: str, development: dict[str, Any] | None = None) -> None:
        """Take a run out, for this `reason`: what it needs to go on and its prompts so far are kept, which have these
        `development` scores.

        A run that waits is kept from entering. `InputError` for a run that has ended, or that the job has not.
        """
        run = self.run_of(name)
        if run.id in self.results:
            raise InputError(f"{run.id}: it has {self.results[run.id].status} already; list shows what goes on")
        step = self.returning.get(run.id, 0)
        if step:
            development = stopped.load(self.folder, self.identity, run.id, step).state.get("development") or development
            del self.returning[run.id]
        if run.id in self.held:
            self.let_in(run.id)
        for cohort, member in list(self.members):
            if member.run == run:
                step = member.step
                development = member.development or development
                self._keep_stopped(cohort, member, development)
        self.results[run.id] = RunResult.stopped(run, reason, step, development)
        self.changed = True

    def _keep_stopped(self, cohort: Cohort, member: Member, development: dict[str, Any] | None) -> None:
        if self.graphs is not None:
            self.graphs.drop()
        if member.step:
            stopped.keep(self.folder, self.identity, cohort, cohort.members.index(member), development)
            self._store_prompts(cohort, self.chosen(cohort, member), member.run)
        self._leave(cohort, member)

    def resume(self, name: str) -> None:
        """Let a stopped run go on from where it was, as soon as there is room, before those that have not begun.

        `InputError` for a run that was not stopped, or cannot go on, and where what was kept of it cannot be read.
        """
        run = self.run_of(name)
        result = self.results.get(run.id)
        if result is None or result.step is None:
            why = "goes on already" if result is None else f"has {result.status} and cannot go on"
            raise InputError(f"{run.id}: it {why}: only a run that was stopped midway is resumed")
        if result.step:
            stopped.load(self.folder, self.identity, run.id, result.step)  # for its checks
            self.returning[run.id] = result.step
        del self.results[run.id]
        self.changed = True

    def add(self, runs: Sequence[Run]) -> None:
        """Take further runs into the job, behind those that wait; `ValueError` for one whose id the job has.

        `InputError` for a run that cannot be trained here: then none is added.
        """
        taken = {run.id for run in self.runs} & {run.id for run in runs}
        if taken:
            raise ValueError(f"the job has {', '.join(sorted(taken))} already")
        self._know(runs)
        self.record(runs)  # before the checkpoint that may name them
        self.runs = [*self.runs, *runs]
        self.changed = True

    def refill(self) -> bool:
        """Let waiting runs in until `runs_at_once` train side by side; whether some of them had begun before."""
        if self.closed:
            return False
        alive = sum(len(cohort.members) for cohort in self.cohorts)
        entering: dict[PromptShape, list[Run]] = {}
        for run in self.waiting[: max(0, self.settings.runs_at_once - alive)]:
            trains = bool(self.cohorts or entering)
            if trains and (run.alone or (self.cohorts and self.cohorts[0].stepper is not None)):
                break
            entering.setdefault(run.shape, []).append(run)
            if run.alone:
                break
        begun = len(self.held) + len(self.returning)
        for runs in entering.values():
            with self._change():
                self._admit(runs)
        return len(self.held) + len(self.returning) < begun

    def _admit(self, runs: Sequence[Run]) -> Cohort:
        """Let runs of one shape in."""
        back = [run.id for run in runs if run.id in self.returning and run.id not in self.held]
        kept = {name: stopped.load(self.folder, self.identity, name, self.returning[name]) for name in back}
        members = []
        for run in runs:
            taught = self.teachers(run)
            teachers = None if taught is None else taught.to(self.trunk.device)
            members.append(Member(run, self.rows[run.id], self.start(run), teachers))
        cohort = next((c for c in self.cohorts if c.shape == runs[0].shape), None)
        if cohort is None:
            cohort = self.alone(runs[0]) if runs[0].alone else Cohort(runs[0].shape, self.trunk.embedding)
            self.cohorts.append(cohort)
        cohort.admit(*members)
        for index, run in enumerate(runs, len(cohort.members) - len(runs)):
            if run.id in self.held:
                held = self.held.pop(run.id)
                cohort.restore(index, held.state, held.tensors)
            elif run.id in kept:
                del self.returning[run.id]
                cohort.restore(index, kept[run.id].state["members"][0][0], kept[run.id].tensors[run.id])
        return cohort

    def let_in(self, name: str) -> Member:
        """Let a run in that is held or returns, whether or not there is room for it."""
        run = self.run_of(name)
        self._admit([run])
        return next(member for _, member in self.members if member.run == run)

    def hold(self, name: str) -> None:
        """Take a run out of training, as it is."""
        cohort, member = next((c, m) for c, m in self.members if m.run.id == name)
        if self.graphs is not None:
            self.graphs.drop()
        self.held[name] = Held.of(cohort, cohort.members.index(member))
        self._leave(cohort, member)
        self.cohorts = [cohort for cohort in self.cohorts if cohort.members]

    def snapshot(self) -> dict[str, Held]:
        """All that the runs in training go on from, as they are."""
        return {m.run.id: Held.of(c, c.members.index(m)) for c, m in self.members}

    def _leave(self, cohort: Cohort, member: Member) -> None:
        """Let the run of a cohort's `member` go."""
        with self._change():
            cohort.keep([i for i, other in enumerate(cohort.members) if other is not member])
            if not cohort.members:
                self.cohorts.remove(cohort)

    def chosen(self, cohort: Cohort, member: Member) -> RunPrompts:
        """The prompts of a run in training that are reported: the best so far, where they are selected, or the last."""
        return member.best or cohort.prompts_of(member)

    def _store_prompts(self, cohort: Cohort, prompts: RunPrompts, run: Run) -> None:
        about = about_run(run, self.settings, self.data, self.trunk, self.trunk_hash)
        cohort.save(self.folder, prompts, about)
