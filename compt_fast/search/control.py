"""The control of a search: adds the next trials as places become free, and notes what came of those that end."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compt_fast.search import record
from compt_fast.search.study import Study
from compt_fast.search.trials import FAILED, FINISHED, GOING, PRUNED, Trial, best_of
from compt_fast.training.halving import Halving, rungs_of
from compt_fast.training.plan import Run
from compt_fast.utils.errors import InputError
from compt_fast.utils.files import write_json, write_text

if TYPE_CHECKING:
    from compt_fast.training.interrupts import Interrupts
    from compt_fast.training.loop import Trainer
    from compt_fast.training.monitor import Monitor
    from compt_fast.training.results import RunResult

JOURNAL = "study.log"
"""The search as one of Optuna's journals, beside `record.NAME`, in the run folder."""
Planned = Callable[[Mapping[str, Any], int], list[Run]]
"""The runs of a trial's values, by flag, under its number; `InputError` where they cannot be trained."""
TRIALS = 100
"""Of a search that has no end of its own, where nobody says how many."""
_NUMBERED = re.compile(r"-t\d+(-|$)")  # the id of a run that a search has added


@dataclass
class Search:
    """Asks for the trials `wanted`, as many at a time as places are free, then trains the best with `confirm` fresh
    seeds. Without `wanted` they are all points that the sampler has, or `TRIALS`.

    A trial whose run another one has had already shares that: it is trained once. All that is known is in the
    `record`, which the job's checkpoints hold, and the study is made from that; the files are written for others.
    Of `halving`, which decides before it, it is told how trials did on their way.
    """

    record: record.Record
    wanted: int | None
    confirm: int
    planned: Planned
    halving: Halving = field(default_factory=Halving)
    name: str = "search"

    def __post_init__(self) -> None:
        self._study = self._made()
        self._restored = False  # the files may be older than the checkpoint
        known = [count for count in (self.wanted, self._study.most) if count is not None]
        self.most = min(known, default=TRIALS)

    def _made(self) -> Study:
        known = self.record
        return Study(known.space, known.sampler, known.seed, known.trials)

    @property
    def trials(self) -> list[Trial]:
        """All trials that were asked for, by number."""
        return self.record.trials

    def act(self, trainer: Trainer, monitor: Monitor, interrupts: Interrupts) -> None:
        """Note what ended, ask for what fits and, after the last trial, add the runs with fresh seeds."""
        trainer.changed |= self._restored
        self._ended(trainer, monitor)
        if trainer.closed:
            return
        while len(self.trials) < self.most and self._places(trainer) > 0:
            self._ask(trainer, monitor)
        if len(self.trials) >= self.most:
            self._confirm(trainer)

    def until(self, trainer: Trainer, run: Run) -> int | None:
        """It waits for ends alone."""
        return None

    def kept(self, trainer: Trainer) -> None:
        """Write both files anew."""
        write_json(trainer.folder / record.NAME, self.record.to_json())
        write_text(trainer.folder / JOURNAL, self._study.journal)
        self._restored = False

    def state(self) -> dict[str, Any]:
        return self.record.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.record.restore(state, "a checkpoint's search")
        self._study = self._made()
        self._restored = True

    def _known(self, trainer: Trainer) -> list[Run]:
        """The runs of the job without those that a search has added of which no checkpoint knew when the job died:
        they are asked for again, and then they are there.
        """
        own = {*self.record.confirming, *(run for trial in self.trials for run in trial.runs)}
        return [run for run in trainer.runs if run.id in own or not _NUMBERED.search(run.id)]

    def _places(self, trainer: Trainer) -> int:
        """How many more runs may be added."""
        known = {run.id for run in self._known(trainer)}
        waiting = sum(run.id in known for run in trainer.waiting)
        training = sum(member.run.id in known for _, member in trainer.members)
        return trainer.settings.runs_at_once - training - waiting

    def _ask(self, trainer: Trainer, monitor: Monitor) -> None:
        """Begin the next trial."""
        point = self._study.ask()
        assert point is not None  # `most` is no more than there are
        trial = Trial(len(self.trials), point, [])
        try:
            runs = self.planned(self.record.space.values(point), trial.number)
            known = {run.config: run.id for run in self._known(trainer)}
            _add(trainer, [run for run in runs if run.config not in known])
            trial.runs = [known.get(run.config, run.id) for run in runs]
        except InputError as error:
            trial.state, trial.reason = FAILED, str(error)
        self.trials.append(trial)
        self._study.note(trial)
        trainer.changed = True
        if trial.state == FAILED:
            trial.seconds = trainer.wall_seconds
            monitor.say(trial.says)
            self._study.tell(trial)
        else:
            self._ended(trainer, monitor)  # at once where its runs have been another's

    def _ended(self, trainer: Trainer, monitor: Monitor) -> None:
        """Note what has come of each trial since, and tell the study.

        A run that was stopped may be taken up again, as asynchronous halving does. A trial that the study was told of
        before cannot be told anew: the study is made once more.
        """
        again = False
        for trial in self.trials:
            before = trial.state
            if before in (FINISHED, FAILED) or not self._outcome(trial, trainer):
                continue
            trainer.changed = True
            if before == GOING:
                self._study.tell(trial)
            again |= before == PRUNED
            if trial.state != GOING:
                monitor.say(trial.says)
        if again:
            self._study = self._made()

    def _outcome(self, trial: Trial, trainer: Trainer) -> bool:
        """Set what has come of a trial; whether it is another thing than before."""
        before = trial.state
        results = [trainer.results[run] for run in trial.runs if run in trainer.results]
        stopped = [result for result in results if result.status != "finished"]
        early = bool(stopped) and all(result.resumable for result in stopped)
        if len(results) < len(trial.runs):
            trial.state, trial.reason = GOING, ""
        elif stopped:
            trial.state, trial.reason = PRUNED if early else FAILED, stopped[0].reason
        else:
            trial.state, trial.reason = FINISHED, ""
            trial.value = statistics.fmean(map(development_of, results))
        if trial.state == before:
            return False
        trial.reports = self._reports(trial, trainer)
        trial.seconds = None if trial.state == GOING else trainer.wall_seconds
        return True

    def _reports(self, trial: Trial, trainer: Trainer) -> dict[str, float]:
        """The development score at each rung of halving that a trial of one run has come to, by step."""
        if not trainer.halves or len(trial.runs) > 1:
            return {}
        (run,) = trial.runs
        rungs = rungs_of(trainer.settings, trainer.steps_of(trainer.run_of(run)))
        return {str(step): score for step, score in zip(rungs, self.halving.scores.get(run, ()), strict=False)}

    def _confirm(self, trainer: Trainer) -> None:
        """Once every trial has ended, add runs of the best one with seeds that no run has had, those that it lacks."""
        best = best_of(self.trials)
        if best is None or any(trial.state == GOING for trial in self.trials):
            return
        had = self.record.confirming if best.number == self.record.best else []
        lacking = self.confirm - len({trainer.run_of(run).config.seed for run in had})
        if best.number == self.record.best and lacking <= 0:
            return
        first = 1 + max(run.config.seed for run in self._known(trainer))
        values = self.record.space.values(best.point) | {"seeds": list(range(first, first + lacking))}
        runs = self.planned(values, best.number) if lacking > 0 else []
        _add(trainer, runs)
        self.halving.exempt |= {run.id for run in runs}  # each of them counts
        self.record.best, self.record.confirming = best.number, [*had, *(run.id for run in runs)]
        trainer.changed = True


def development_of(result: RunResult) -> float:
    """The score by which a search chooses: the average on the development sample, never of the test rows."""
    assert result.development is not None, f"{result.id} was not scored on its development sample"
    return float(result.development["average"])


def _add(trainer: Trainer, runs: Sequence[Run]) -> None:
    """Add runs to the job, but those that it has from before it died."""
    here = {run.id: run for run in trainer.runs}
    for run in runs:
        if run.id in here and here[run.id].config != run.config:
            raise InputError(
                f"{run.id}: config.json has it with other settings, from before the job died: go on with the "
                "--runs-at-once that it began with"
            )
    trainer.add([run for run in runs if run.id not in here])
