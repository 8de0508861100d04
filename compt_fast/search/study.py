"""The trials of a search as a study of Optuna's, asked for the next point and told what came of each."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import TrialState

from compt_fast.search.samplers import SAMPLERS
from compt_fast.search.space import Point, Space
from compt_fast.search.trials import FAILED, FINISHED, GOING, PRUNED, Trial

NAME = "compt_fast"
"""The study's, in its storage."""
_STATES = {FINISHED: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}


class _Lines(BaseJournalBackend):
    """A journal in memory, whose lines are those of Optuna's journal files."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return [json.loads(line) for line in self.lines[log_number_from:]]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.lines += [json.dumps(log, separators=(",", ":")) for log in logs]


class Study:
    """Asks a sampler for points of a space, and tells it what came of them.

    What is asked next follows from the seed and the trials that were given: a study that is made anew from those asks
    for the same points.
    """

    def __init__(self, space: Space, sampler: str, seed: int, trials: Sequence[Trial] = ()) -> None:
        """A study in which `trials`, numbered from 0, are known. Raises `InputError` as `Space.grid` does."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._seed = space, seed
        self._sampler = SAMPLERS[sampler]
        self._points = None if self._sampler.points is None else self._sampler.points(space, seed)
        self._journal = _Lines()
        made = optuna.create_study(storage=JournalStorage(self._journal), study_name=NAME, direction="maximize")
        self._study = made
        self._asked: list[optuna.Trial] = []
        for trial in trials:
            self._study.sampler = optuna.samplers.RandomSampler(0)  # which has nothing to choose
            self._study.enqueue_trial(trial.point)
            self._begin()
            self.note(trial)
            self.tell(trial)

    @property
    def most(self) -> int | None:
        """How many points there are to ask for, None where there is no end."""
        return None if self._points is None else len(self._points)

    def ask(self) -> Point | None:
        """The point of the next trial, None where there is none left."""
        number = len(self._asked)
        if self._points is not None:
            if number >= len(self._points):
                return None
            self._study.enqueue_trial(self._points[number])
        self._study.sampler = self._sampler.make(random.Random(f"{self._seed} {number}").randrange(2**32))
        return self._begin()

    def _begin(self) -> Point:
        """Ask for a trial, and for the value of each of its axes."""
        trial = self._study.ask()
        self._asked.append(trial)
        return self._space.walk(lambda axis: axis.over.suggest(trial, axis.name))

    def note(self, trial: Trial) -> None:
        """Write down the runs of a trial that was asked for."""
        self._asked[trial.number].set_user_attr("runs", trial.runs)

    def tell(self, trial: Trial) -> None:
        """Tell what came of a trial; nothing of one that goes on."""
        if trial.state == GOING:
            return
        asked = self._asked[trial.number]
        for step, value in trial.reports.items():
            asked.report(value, int(step))
        asked.set_user_attr("seconds", trial.seconds)
        self._study.tell(asked, trial.value, state=_STATES[trial.state])

    @property
    def optuna(self) -> optuna.Study:
        """The study itself."""
        return self._study

    @property
    def journal(self) -> str:
        """All of it as the text of one of Optuna's journal files."""
        return "".join(f"{line}\n" for line in self._journal.lines)
