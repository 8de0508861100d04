"""The training loop of a fleet: the rows of all runs in one pass over the frozen trunk."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from compt_fast.evaluation.evaluator import average
from compt_fast.tasks.examples import ScoredRows
from compt_fast.training import checkpoint, stopped
from compt_fast.training.cohort import Cohort, Held, Member
from compt_fast.training.control import Control, Uncontrolled
from compt_fast.training.interrupts import Interrupts
from compt_fast.training.monitor import Monitor
from compt_fast.training.plan import Run
from compt_fast.training.results import RunResult, write_results
from compt_fast.training.roster import Roster
from compt_fast.training.scoring import Scorer, Scores
from compt_fast.training.step import Packed
from compt_fast.training.stepper import Stepper
from compt_fast.utils.errors import InputError
from compt_fast.utils.words import plural

SELECTIONS = 10  # with --select best a run is scored on development every tenth of its steps


@dataclass
class Trainer(Roster):
    """Trains the runs of a roster and scores each as it ends.

    `control` decides between steps which runs go on. `results` and the checkpoints hold everything done so far, so a
    job can stop after any step. Of a job that goes on, `earlier_seconds` is the time that its earlier parts took.
    """

    control: Control = field(default_factory=Uncontrolled)
    step: int = 0
    tokens: int = 0  # of all training rows so far
    earlier_seconds: float = 0.0
    scores: bool = True  # here; False where others train, and score

    def __post_init__(self) -> None:
        super().__post_init__()
        self._started: float | None = None
        self._stepper = Stepper(self.trunk, self.graphs)
        self._evaluation = self.data.evaluation()
        self.score = Scorer(self.trunk, self.data, self.settings)

    @property
    def wall_seconds(self) -> float:
        """Seconds of training and scoring, `earlier_seconds` included."""
        now = time.perf_counter()
        return self.earlier_seconds + (now - self._started if self._started is not None else 0.0)

    def train(self, monitor: Monitor, interrupts: Interrupts) -> None:
        """Train and score every run.

        On `Interrupted` or an error, `save` keeps what was done, unless the trainer is `midway`.
        """
        self.begin()
        while self.advance(monitor, interrupts):
            if self.due:
                self.save(monitor)
            interrupts.check()
        self.save(monitor)

    def begin(self) -> None:
        """Count the time from now on."""
        self._started = time.perf_counter()

    def advance(self, monitor: Monitor, interrupts: Interrupts) -> bool:
        """Let runs that are through leave and waiting ones enter, and take a step; False where nobody trains."""
        self._retire(monitor, interrupts)
        self.decide(monitor, interrupts)
        while self.refill():  # of one that was held nobody has seen whether it is through
            self._retire(monitor, interrupts)
            self.decide(monitor, interrupts)
        if self.cohorts:
            self.train_step(monitor)
        return bool(self.cohorts)

    def decide(self, monitor: Monitor, interrupts: Interrupts) -> None:
        """Let the control decide; what it changes is on the disk before the next step."""
        before = dict(self.results)
        self.control.act(self, monitor, interrupts)
        if not self.changed:
            return
        self.save(monitor)
        self.write_results()
        self.control.kept(self)
        monitor.expect(self.steps_to_come)
        for run in self.runs:
            was, now = before.get(run.id), self.results.get(run.id)
            if now is not None and was is None:
                monitor.ended(now, now.step or 0, now.says)
            if was is not None and now is None:
                monitor.say(f"{run.id}: goes on from step {was.step} once there is room")

    @property
    def due(self) -> bool:
        """Whether a checkpoint is, after so many steps."""
        return self.step % self.settings.checkpoint_every == 0

    def save(self, monitor: Monitor) -> None:
        """Write a checkpoint of the present state."""
        members = [member.run.id for cohort in self.cohorts for member in cohort.members]
        state = {
            "job": self.identity.hash([*self.results, *members, *self.held, *self.returning]),
            "step": self.step,
            "wall_seconds": self.wall_seconds,
            "tokens": self.tokens,
            "metrics_offset": monitor.offset,
            "results": {run: result.to_json() for run, result in self.results.items()},
            "returning": self.returning,
            "control": self.control.state(),
        }
        checkpoint.save(self.folder / "checkpoints", state, self.cohorts, self.held)
        stopped.prune(self.folder, self.folder / "checkpoints")
        self.changed = False

    def restore(self, monitor: Monitor, saved: checkpoint.Checkpoint) -> None:
        """Go back to the state of a checkpoint of the same job, or of one with fewer runs.

        Raises `InputError` when the checkpoint is another job's.
        """
        state = saved.state
        by_id = {run.id: run for run in self.runs}
        self.note_results(saved)
        try:
            for entry in itertools.chain.from_iterable(state["members"]):
                self.held[by_id[entry["run"]].id] = Held(entry, saved.tensors[entry["run"]])
            self.refill()
        except (KeyError, RuntimeError) as error:
            raise InputError(f"{saved.path}: not a checkpoint of this job: {error}") from None
        self.step = state["step"]
        self.tokens = state.get("tokens", 0)
        self.earlier_seconds = state["wall_seconds"]
        self.control.restore(state.get("control", {}))
        whole = sum(self.steps_of(by_id[run]) for run, result in self.results.items() if not result.resumable)
        monitor.rewind(state["metrics_offset"], whole + sum(self.begun.values()))

    def note_results(self, saved: checkpoint.Checkpoint) -> None:
        """Know of the runs that had ended, and the steps of those that had begun, by a checkpoint."""
        self.results = {run: RunResult(**result) for run, result in saved.state["results"].items()}
        self.returning = dict(saved.state.get("returning", {}))
        self.begun = {entry["run"]: entry["step"] for entry in itertools.chain.from_iterable(saved.state["members"])}
        self.begun |= {run: result.step for run, result in self.results.items() if result.step is not None}
        self.begun |= self.returning

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
            self.tokens += packed.tokens
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

    def _retire(self, monitor: Monitor, interrupts: Interrupts) -> None:
        """Score the runs that are through, store their prompts and results, and let them leave."""
        if self.settings.develops:
            self._select(monitor, interrupts)
        through = [(cohort, member) for cohort, member in self.members if member.finished or member.stopped]
        if through and self.graphs is not None:
            self.graphs.drop()  # they are of other runs than will go on, and scoring needs the memory
        scores = self.score(
            (
                (cohort, member, self.chosen(cohort, member), self.evaluation_of(member.run))
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
            self._store_prompts(cohort, prompts, run)
            self.results[run.id] = RunResult.finished(run, tasks, average(tasks), member.development)
            monitor.phase("training")
        self._leave(cohort, member)
        self.write_results()
        says = f"{self.results[run.id].says} ({len(self.results)} of {plural(len(self.runs), 'run')} ended)"
        monitor.ended(self.results[run.id], member.step, says)

    def _select(self, monitor: Monitor, interrupts: Interrupts) -> None:
        """Keep the prompts of each run that did best so far on its development sample, or, where the last ones are
        reported whatever they score, those.
        """
        selections = SELECTIONS if self.settings.select == "best" else 1
        due = [(cohort, member) for cohort, member in self.members if member.due(selections)]
        for (cohort, member), development in zip(due, self.develop(due, monitor, interrupts), strict=True):
            member.selected = member.step
            if development["average"] > member.best_score:
                member.best = cohort.prompts_of(member)
                member.development = development

    def develop(
        self, asked: Sequence[tuple[Cohort, Member]], monitor: Monitor, interrupts: Interrupts
    ) -> list[dict[str, Any]]:
        """What runs in training score on their development samples now, as `RunResult.development` has it."""
        new = [(cohort, member) for cohort, member in asked if member.developed[0] != member.step]
        scores = self.score(
            ((cohort, member, cohort.prompts_of(member), self.development_of(member.run)) for cohort, member in new),
            interrupts,
        )
        for _, member in new:
            monitor.phase(f"selecting {member.run.id}")
            _, tasks = next(scores)
            monitor.selecting(member.run.id, member.step, tasks, average(tasks))
            by_task = {name: task["scores"] for name, task in tasks.items()}
            member.developed = member.step, {"average": average(tasks), "step": member.step, "tasks": by_task}
            monitor.phase("training")
        return [member.developed[1] for _, member in asked]

    def evaluation_of(self, run: Run) -> list[ScoredRows]:
        """The rows that a run is scored on, those of each of its tasks."""
        if run.config.task is None:
            return self._evaluation
        return [rows for rows in self._evaluation if rows.task.name == run.config.task]

    def write_results(self) -> None:
        """Write `results.json` with every run's state as of now."""
        results = [self.results.get(run.id) or RunResult.waiting(run) for run in self.runs]
        write_results(self.folder, results, self.wall_seconds, self.identity.hash(run.id for run in self.runs))
