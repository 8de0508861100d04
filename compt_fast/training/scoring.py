"""What runs in training score: those that come together in one pass over the trunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from compt_fast.config.job import JobSettings
from compt_fast.evaluation.evaluator import predict, scored
from compt_fast.evaluation.passes import Asked
from compt_fast.models.api import Trunk
from compt_fast.prompts.artifact import RunPrompts
from compt_fast.tasks.examples import JobData, ScoredRows
from compt_fast.training.cohort import Cohort, Member
from compt_fast.training.interrupts import Interrupts

Wanted = tuple[Cohort, Member, RunPrompts, list[ScoredRows]]
"""A member of a cohort, the prompts that it is scored with, and the rows of each of its tasks."""
Scores = Iterator[tuple[RunPrompts, dict[str, Any]]]
"""Prompts of runs, and what their tasks score with them, as in results.json."""


@dataclass(frozen=True)
class Scorer:
    """Scores runs of a job."""

    trunk: Trunk
    data: JobData
    settings: JobSettings

    def __call__(self, wanted: Iterable[Wanted], interrupts: Interrupts) -> Scores:
        """What is wanted, in its order, each as soon as its last row is answered; signals are looked for after every
        pass.
        """
        asked = (
            Asked(cohort.scored_by(self.trunk, prompts), prompts, sets, member.run.config.label_mode)
            for cohort, member, prompts, sets in wanted
        )
        answers = predict(
            self.data,
            asked,
            scoring=self.settings.scoring,
            batch_size=self.settings.eval_batch_size,
            after_pass=interrupts.check,
        )
        for one, predicted in answers:
            yield one.prompts, scored(one.sets, predicted, one.mode)
