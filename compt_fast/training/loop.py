"""The training loop of a fleet: the rows of all runs in one pass over the frozen trunk."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from compt_fast.config.job import JobSettings
from compt_fast.config.presets import CHAIN, RANDOM, STORED
from compt_fast.evaluation.evaluator import average
from compt_fast.models.api import Trunk
from compt_fast.prompts.artifact import About, TextFormat, TrunkId
from compt_fast.prompts.shape import PromptShape
from compt_fast.tasks.examples import JobData, ScoredRows, Seen, seen_nothing
from compt_fast.training import checkpoint
from compt_fast.training.cohort import Cohort, Member
from compt_fast.training.distillation import TeachersOf, no_teachers
from compt_fast.training.graphs import Graphs, captures
from compt_fast.training.identity import Identity
from compt_fast.training.interrupts import Interrupts
from compt_fast.training.monitor import Monitor
from compt_fast.training.plan import Run, run_sources
from compt_fast.training.results import RunResult, write_results
from compt_fast.training.scoring import Scorer, Scores
from compt_fast.training.step import Packed
from compt_fast.training.stepper import Stepper
from compt_fast.utils.errors import InputError
from compt_fast.utils.words import plural

Start = Callable[[Run], dict[str, Tensor]]
"""A run's parameters that start from stored values, by name and without a run axis."""
SeenBy = Callable[[Run], Seen]
"""The training rows that a run's stored values were trained on, which no development sample of it may hold."""
SELECTIONS = 10  # with --select best a run is scored on development every tenth of its steps


def from_nothing(run: Run) -> dict[str, Tensor]:
    """The start of a run that needs no stored prompts; `ValueError` for one that does."""
    if run.config.source_init != RANDOM or run.config.private_init != RANDOM:
        raise ValueError(f"{run.id} starts from stored prompts, and the trainer was given none")
    return {}


def none_alone(run: Run) -> Cohort:
    """The cohort of a run that changes the trunk, where nothing makes one."""
    raise ValueError(f"{run.id} trains weights of the trunk, and the trainer was given nothing that does")


@dataclass
class Trainer:
    """Trains `runs`, `settings.runs_at_once` side by side, and scores each as it ends.

    `start` gives what a run's prompts start from where that is stored, `seen` the rows that it was
    trained on, `teachers` the prompts that it learns from. Runs that train alone come after the others, one at a time,
    each in a cohort that `alone` makes. `results` and the checkpoints hold everything done so far, so a job can stop
    after any step. Of a job that goes on, `begun` holds the steps of the runs that were midway, and
    `earlier_seconds` the time that its earlier parts took.
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
    cohorts: list[Cohort] = field(default_factory=list)
    results: dict[str, RunResult] = field(default_factory=dict)
    begun: dict[str, int] = field(default_factory=dict)
    step: int = 0
    midway: bool = False  # an error left a change of runs or parameters half done: nothing to save
    earlier_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._started: float | None = None
        self.graphs: Graphs | None = None
        if self.settings.cuda_graphs and captures(self.trunk):
            self.graphs = Graphs(self.trunk)
        self._stepper = Stepper(self.trunk, self.graphs)
        self._evaluation = self.data.evaluation()
        self.score = Scorer(self.trunk, self.data, self.settings)
        self.rows = {run.id: self.data.training(run.config) for run in self.runs}
        if self.settings.select == "best":
            for run in self.runs:
                self._check_development(run)

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
    def ended(self) -> list[RunResult]:
        """Results of the runs that have ended, in the plan's order."""
        return [self.results[run.id] for run in self.runs if run.id in self.results]

    @property
    def waiting(self) -> list[Run]:
        """The runs that have not begun, in the plan's order, those that train alone last."""
        begun = {member.run.id for cohort in self.cohorts for member in cohort.members} | self.results.keys()
        return sorted((run for run in self.runs if run.id not in begun), key=lambda run: run.alone)

    @property
    def wall_seconds(self) -> float:
        """Seconds of training and scoring, `earlier_seconds` included."""
        now = time.perf_counter()
        return self.earlier_seconds + (now - self._started if self._started is not None else 0.0)

    def _check_development(self, run: Run) -> None:
        for sample in self.development_of(run):
            if not sample.inputs:
                raise InputError(
                    f"{run.id}: --select best needs training rows of {sample.task.name} beyond the shots and those "
                    "that its stored prompts were trained on, and there are none; lower --shots or --source-examples, "
                    "or use --select last"
                )

    def train(self, monitor: Monitor, interrupts: Interrupts) -> None:
        """Train and score every run.

        On `Interrupted` or an error, `save` keeps what was done, unless the trainer is `midway`.
        """
        self._started = time.perf_counter()
        every = self.settings.checkpoint_every
        while True:
            self._retire(monitor, interrupts)
            self.refill()
            if not self.cohorts:
                break
            self.train_step(monitor)
            if self.step % every == 0:
                self.save(monitor)
            interrupts.check()
        self.save(monitor)

    def save(self, monitor: Monitor) -> None:
        """Write a checkpoint of the present state."""
        members = [member.run.id for cohort in self.cohorts for member in cohort.members]
        state = {
            "job": self.identity.hash([*self.results, *members]),
            "step": self.step,
            "wall_seconds": self.wall_seconds,
            "metrics_offset": monitor.offset,
            "results": {run: result.to_json() for run, result in self.results.items()},
        }
        checkpoint.save(self.folder / "checkpoints", state, self.cohorts)

    def restore(self, monitor: Monitor, saved: checkpoint.Checkpoint) -> None:
        """Go back to the state of a checkpoint of the same job, or of one with fewer runs.

        Raises `InputError` when the checkpoint is another job's.
        """
        state = saved.state
        by_id = {run.id: run for run in self.runs}
        try:
            for entries in filter(None, state["members"]):
                cohort = self._admit([by_id[entry["run"]] for entry in entries])
                for index, entry in enumerate(entries, len(cohort.members) - len(entries)):
                    cohort.restore(index, entry, saved.tensors[entry["run"]])
        except (KeyError, RuntimeError) as error:
            raise InputError(f"{saved.path}: not a checkpoint of this job: {error}") from None
        self.step = state["step"]
        self.earlier_seconds = state["wall_seconds"]
        self.note_results(saved)
        alive = sum(m.step for c in self.cohorts for m in c.members)
        done = sum(self.steps_of(by_id[run]) for run in self.results)
        monitor.rewind(state["metrics_offset"], alive + done)

    def note_results(self, saved: checkpoint.Checkpoint) -> None:
        """Know of the runs that had ended, and the steps of those that had begun, by a checkpoint."""
        self.results = {run: RunResult(**result) for run, result in saved.state["results"].items()}
        self.begun = {entry["run"]: entry["step"] for entry in itertools.chain.from_iterable(saved.state["members"])}

    @contextmanager
    def _change(self) -> Iterator[None]:
        """A change of several parts, after which they belong together again."""
        self.midway = True
        yield
        self.midway = False  # not so after an error

    # One step

    def train_step(self, monitor: Monitor) -> list[dict[str, Any]]:
        """Forward, backward and update of all members on their next batches.

        Returns what went to `metrics.jsonl`: a record a run, in the cohorts' order.
        """
        began = time.perf_counter()
        stepper = self.cohorts[0].stepper or self._stepper
        packed, finish = stepper.begin(self.cohorts)
        with self._change():
            found = finish()
            stepper.prepare(self.cohorts)  # while the device works
            records = self._records(packed, found.tolist())
            self.step += 1
        speed = packed.tokens / (time.perf_counter() - began)
        for record in records:
            record["tokens_per_second"] = round(speed, 1)
        monitor.step(records, speed=speed)
        return records

    def _records(self, packed: Packed, found: list[list[float]]) -> list[dict[str, Any]]:
        """Note what `update` gave; a run that is not finite is stopped and reported."""
        records = []
        columns = zip(*found, strict=True)
        for cohort, part in zip(self.cohorts, packed.parts, strict=True):
            rates = {cohort.groups[name]: rate.tolist() for name, rate in part.hyperparameters.rates.items()}
            for i, member in enumerate(cohort.members):
                loss, norm, updated = next(columns)
                member.step += 1
                if not updated:
                    which = "gradient" if math.isfinite(loss) else "loss"
                    member.stopped = f"{which} not finite at step {member.step}"
                records.append(
                    {
                        "run": member.run.id,
                        "step": member.step,
                        "loss": loss if math.isfinite(loss) else None,
                        "gradient_norm": norm if math.isfinite(norm) else None,
                        "learning_rate": {group: rate[i] for group, rate in rates.items()},
                    }
                )
        return records

    # Runs that enter and leave

    def refill(self) -> None:
        """Let waiting runs in until `runs_at_once` train side by side."""
        alive = sum(len(cohort.members) for cohort in self.cohorts)
        entering: dict[PromptShape, list[Run]] = {}
        for run in self.waiting[: max(0, self.settings.runs_at_once - alive)]:
            trains = bool(self.cohorts or entering)
            if trains and (run.alone or (self.cohorts and self.cohorts[0].stepper is not None)):
                break
            entering.setdefault(run.shape, []).append(run)
            if run.alone:
                break
        for runs in entering.values():
            with self._change():
                self._admit(runs)

    def _admit(self, runs: Sequence[Run]) -> Cohort:
        """Let runs of one shape in."""
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
        return cohort

    def _retire(self, monitor: Monitor, interrupts: Interrupts) -> None:
        """Score the runs that are through, store their prompts and results, and let them leave."""
        if self.settings.select == "best":
            self._select(monitor, interrupts)
        members = [(cohort, member) for cohort in self.cohorts for member in cohort.members]
        through = [(cohort, member) for cohort, member in members if member.finished or member.stopped]
        if through and self.graphs is not None:
            self.graphs.drop()  # they are of other runs than will go on, and scoring needs the memory
        scores = self.score(
            (
                (cohort, member, member.best or cohort.prompts_of(member), self.evaluation_of(member.run))
                for cohort, member in through
                if not member.stopped
            ),
            interrupts,
        )
        for cohort, member in through:
            self._finish(cohort, member, scores, monitor)

    def _finish(self, cohort: Cohort, member: Member, scores: Scores, monitor: Monitor) -> None:
        run = member.run
        if member.stopped:
            self.results[run.id] = RunResult.stopped(run, member.stopped)
        else:
            monitor.phase(f"scoring {run.id}")
            prompts, tasks = next(scores)
            cohort.save(self.folder, prompts, self._about(run))
            self.results[run.id] = RunResult.finished(run, tasks, average(tasks), member.development)
            monitor.phase("training")
        with self._change():
            cohort.keep([i for i, other in enumerate(cohort.members) if other is not member])
            if not cohort.members:
                self.cohorts.remove(cohort)
        self.write_results()
        monitor.ended(f"{self.results[run.id].says} ({len(self.results)} of {plural(len(self.runs), 'run')} ended)")

    def _select(self, monitor: Monitor, interrupts: Interrupts) -> None:
        """Keep the prompts of each run that did best so far on its development sample."""
        members = [(cohort, member) for cohort in self.cohorts for member in cohort.members]
        due = [(cohort, member) for cohort, member in members if member.due(SELECTIONS)]
        scores = self.score(
            ((cohort, member, cohort.prompts_of(member), self.development_of(member.run)) for cohort, member in due),
            interrupts,
        )
        for _, member in due:
            monitor.phase(f"selecting {member.run.id}")
            prompts, tasks = next(scores)
            member.selected = member.step
            if average(tasks) > member.best_score:
                member.best = prompts
                own = {name: task["scores"] for name, task in tasks.items()}
                member.development = {"average": average(tasks), "step": member.step, "tasks": own}
            monitor.phase("training")

    def development_of(self, run: Run) -> list[ScoredRows]:
        """The rows that the best of a run's weights are selected on, those of each of its tasks."""
        return self.data.development(run.config, self.seen(run))

    def evaluation_of(self, run: Run) -> list[ScoredRows]:
        """The rows that a run is scored on, those of each of its tasks."""
        if run.config.task is None:
            return self._evaluation
        return [rows for rows in self._evaluation if rows.task.name == run.config.task]

    def write_results(self) -> None:
        """Write `results.json` with every run's state as of now."""
        results = [self.results.get(run.id) or RunResult.waiting(run) for run in self.runs]
        write_results(self.folder, results, self.wall_seconds, self.identity.hash(run.id for run in self.runs))

    def _source_tasks(self, run: Run) -> tuple[str, ...] | None:
        """The task of each source prompt, where each started from a stored one."""
        if run.config.source_init not in (STORED, CHAIN):
            return None
        return tuple(run_sources(self.settings, [data.task.name for data in self.data.tasks], run.config))

    def _about(self, run: Run) -> About:
        tasks = tuple(self.data.names(run.config))
        return About(
            kind="run",
            name=run.id,
            tasks=tasks,
            trunk=TrunkId(self.trunk.name, self.trunk_hash, self.settings.dtype, self.trunk.family),
            text=TextFormat(
                prefix=self.settings.prefix,
                prompt_position=self.settings.prompt_position,
                max_source_length=self.settings.max_source_length,
                label_mode=run.config.label_mode,
            ),
            definitions={data.task.name: data.task for data in self.data.tasks if data.task.name in tasks},
            source_tasks=self._source_tasks(run),
            training={"config": run.config.to_json()},
        )
