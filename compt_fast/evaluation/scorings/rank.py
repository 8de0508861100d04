"""Likelihood of each label: the answer is the task's label that the trunk finds the most likely."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from compt_fast.evaluation.scorings import Labels
from compt_fast.models.api import Trunk
from compt_fast.models.batch import Batch, TargetPrompts


def most_likely(
    trunk: Trunk,
    targets: TargetPrompts,
    batch: Batch,
    labels: Sequence[Labels],
    longest: int,
    input_update: Tensor | None = None,
) -> Callable[[], list[str]]:
    """The most likely label's text, the first of those that are equally likely."""
    found = trunk.label_scores(targets, batch, [of.ids for of in labels], input_update)
    return lambda: [of.texts[int(scores.argmax())] for of, scores in zip(labels, found, strict=True)]


ENTRY = most_likely
