"""The training loop of a fleet: the rows of all runs in one pass over the frozen trunk."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass, field
from typing import Any

from compt_fast.evaluation.evaluator import average, predict, scored
from compt_fast.prompts.artifact import RunPrompts
from compt_fast.tasks.examples import ScoredRows
from compt_fast.training import checkpoint, stopped
from compt_fast.training.cohort import Cohort, Member
from compt_fast.training.control import Control, Uncontrolled
from compt_fast.training.interrupts import Interrupts
from compt_fast.training.monitor import Monitor
from compt_fast.training.plan import Run
from compt_fast.training.results import RunResult, write_results
from compt_fast.training.roster import Roster
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

    def __post_init__(self) -> None:
        super().__post_init__()
        self._started: float | None = None
        self._stepper = Stepper(self.trunk, self.graphs)
        self._evaluation = self.data.evaluation()

    @property
    def wall_seconds(self) -> float:
        """Seconds of training and scoring, `earlier_seconds` included."""
        now = time.perf_counter()
        return self.earlier_seconds + (now - self._started if self._started is not None else 0.0)

    def train(self, monitor: Monitor, interrupts: Interrupts) -> None:
        """Train and score every run.

        On `Interrupted` or an error, `save` keeps what was done, unless the trainer is `midway`.
        """
        self._started = time.perf_counter()
        every = self.settings.checkpoint_every
        while True:
            self._retire(monitor, interrupts)
            self._control(monitor, interrupts)
            self.refill()
            if not self.cohorts:
                break
            self.train_step(monitor)
            if self.step % every == 0:
                self.save(monitor)
            interrupts.check()
        self.save(monitor)

    def _control(self, monitor: Monitor, interrupts: Interrupts) -> None:
        """Let the control decide; what it changes is on the disk before the next step."""
        before = set(self.results)
        self.control.act(self, monitor, interrupts)
        if not self.changed:
            return
        self.save(monitor)
        self.write_results()
        self.control.kept(self)
        monitor.expect(self.steps_to_come)
        for result in self.ended:
            if result.id not in before:
                monitor.ended(result.says)

    def save(self, monitor: Monitor) -> None:
        """Write a checkpoint of the present state."""
        members = [member.run.id for cohort in self.cohorts for member in cohort.members]
        state = {
            "job": self.identity.hash([*self.results, *members, *self.returning]),
            "step": self.step,
            "wall_seconds": self.wall_seconds,
            "tokens": self.tokens,
            "metrics_offset": monitor.offset,
            "results": {run: result.to_json() for run, result in self.results.items()},
            "returning": self.returning,
            "control": self.control.state(),
        }
        checkpoint.save(self.folder / "checkpoints", state, self.cohorts)
        stopped.prune(self.folder, self.folder / "checkpoints")
        self.changed = False

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
        self.tokens = state.get("tokens", 0)
        self.earlier_seconds = state["wall_seconds"]
        self.note_results(saved)
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
        for cohort in list(self.cohorts):
            if self.settings.develops:
                self._select(cohort, monitor, interrupts)
            for member in [m for m in cohort.members if m.finished or m.stopped]:
                self._finish(cohort, member, monitor, interrupts)
            if not cohort.members:
                self.cohorts.remove(cohort)

    def _finish(self, cohort: Cohort, member: Member, monitor: Monitor, interrupts: Interrupts) -> None:
        run = member.run
        if self.graphs is not None:
            self.graphs.drop()  # they are of other runs than will go on, and scoring needs the memory
        if member.stopped:
            self.results[run.id] = RunResult.stopped(run, member.stopped)
        else:
            monitor.phase(f"scoring {run.id}")
            prompts = self.chosen(cohort, member)
            tasks = self._score(prompts, run, self.evaluation_of(run), interrupts)
            self._store_prompts(cohort, prompts, run)
            self.results[run.id] = RunResult.finished(run, tasks, average(tasks), member.development)
            monitor.phase("training")
        self._leave(cohort, member)
        self.write_results()
        monitor.ended(f"{self.results[run.id].says} ({len(self.results)} of {plural(len(self.runs), 'run')} ended)")

    def _select(self, cohort: Cohort, monitor: Monitor, interrupts: Interrupts) -> None:
        """Keep the prompts of each run that did best so far on its development sample, or, where the last ones are
        reported whatever they score, those.
        """
        for index, member in enumerate(cohort.members):
            best = self.settings.select == "best"
            due = member.finished or (best and member.step % max(1, member.total // SELECTIONS) == 0)
            if member.stopped or not due or member.step in (0, member.selected):
                continue
            development = self.develop(cohort, member, monitor, interrupts)
            member.selected = member.step
            if development["average"] > member.best_score:
                member.best = cohort.prompts(index)
                member.development = development

    def develop(self, cohort: Cohort, member: Member, monitor: Monitor, interrupts: Interrupts) -> dict[str, Any]:
        """What a run in training scores on its development sample now, as `RunResult.development` has it."""
        step, scores = member.developed
        if step != member.step:
            monitor.phase(f"selecting {member.run.id}")
            prompts = cohort.prompts(cohort.members.index(member))
            tasks = self._score(prompts, member.run, self.development_of(member.run), interrupts)
            by_task = {name: task["scores"] for name, task in tasks.items()}
            scores = {"average": average(tasks), "step": member.step, "tasks": by_task}
            member.developed = member.step, scores
            monitor.phase("training")
        return scores

    def evaluation_of(self, run: Run) -> list[ScoredRows]:
        """The rows that a run is scored on, those of each of its tasks."""
        if run.config.task is None:
            return self._evaluation
        return [rows for rows in self._evaluation if rows.task.name == run.config.task]

    def _score(self, prompts: RunPrompts, run: Run, sets: list[ScoredRows], interrupts: Interrupts) -> dict[str, Any]:
        cohort = next(cohort for cohort in self.cohorts if any(member.run == run for member in cohort.members))
        predicted = predict(
            cohort.scored_by(self.trunk, prompts),
            self.data,
            prompts,
            sets,
            mode=run.config.label_mode,
            scoring=self.settings.scoring,
            batch_size=self.settings.eval_batch_size,
            after_batch=interrupts.check,
        )
        return scored(sets, predicted, run.config.label_mode)

    def write_results(self) -> None:
        """Write `results.json` with every run's state as of now."""
        results = [self.results.get(run.id) or RunResult.waiting(run) for run in self.runs]
        write_results(self.folder, results, self.wall_seconds, self.identity.hash(run.id for run in self.runs))
