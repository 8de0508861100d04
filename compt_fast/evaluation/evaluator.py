"""Scoring of runs' prompts on the rows of all their tasks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from compt_fast.evaluation.passes import Asked, Part, passes
from compt_fast.evaluation.scorings import SCORINGS, Labels
from compt_fast.kernels import moved
from compt_fast.models.api import Trunk
from compt_fast.models.batch import Batch, TargetPrompts, join, make_batch
from compt_fast.prompts.artifact import RunPrompts
from compt_fast.prompts.compose import compose_rows, update_inputs
from compt_fast.tasks.examples import JobData, ScoredRows
from compt_fast.tasks.metrics import confusion, score
from compt_fast.tasks.text import label_texts

Predicted = list[list[str]]
"""The string predicted for every row of each set."""


@torch.no_grad()
def predict(
    data: JobData,
    asked: Iterable[Asked],
    *,
    scoring: str,
    batch_size: int,
    after_pass: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Asked, Predicted]]:
    """What is predicted for each run that is asked for, in their order, each as soon as its last row is answered.

    `passes` says which rows go through the trunk together. What a run predicts does not depend on the others, on a CPU
    to the last bit. No more is looked at of what is asked than the next few passes take; `after_pass` is called after
    each of them.
    """
    begun: dict[int, _Sheet] = {}  # by the runs' numbers
    going: deque[tuple[list[tuple[_Sheet, Part]], Callable[[], list[str]]]] = deque()

    def looked_at() -> Iterator[Asked]:
        for number, each in enumerate(asked):
            begun[number] = _Sheet(each, data)
            yield each

    def ended(under_way: int) -> Iterator[tuple[Asked, Predicted]]:
        """The runs that are through when so many passes are still under way."""
        while len(going) > under_way:
            parts, answer = going.popleft()
            texts = iter(answer())
            for sheet, part in parts:
                sheet.write(part, islice(texts, len(part.rows)))
        while begun and not (sheet := begun[number := min(begun)]).left:
            del begun[number]
            yield sheet.asked, sheet.predicted

    for own in passes(looked_at(), batch_size):
        parts = [(begun[part.number], part) for part in own]
        going.append((parts, _answered(parts, scoring)))
        after_pass()
        # A GPU answers these rows while the host reads what became of those before.
        yield from ended(0 if own[0].asked.trunk.device.type == "cpu" else 1)
    yield from ended(0)


class _Sheet:
    """What is predicted for a run so far, how many of its rows are `left`, and what may be answered to them."""

    def __init__(self, asked: Asked, data: JobData) -> None:
        self.asked = asked
        self.predicted: Predicted = [[""] * len(of.inputs) for of in asked.sets]
        self.left = sum(map(len, self.predicted))
        tasks, mode = [of.task for of in asked.sets], asked.mode
        self.labels = [Labels(label_texts(task, mode), data.label_ids(task, mode)) for task in tasks]
        self.longest = data.longest_label(mode)
        self._targets: TargetPrompts | None = None

    def prompts_for(self, batch: Batch) -> tuple[TargetPrompts, Batch]:
        """As `prompts_for`; what does not depend on the batch is made once."""
        prompts, trunk = self.asked.prompts, self.asked.trunk
        if prompts.shape.per_row:
            return prompts_for(prompts, trunk, batch)
        self._targets = self._targets or targets_of(prompts, trunk.device)
        return self._targets, batch

    def write(self, part: Part, texts: Iterable[str]) -> None:
        for (t, i), text in zip(part.rows, texts, strict=True):
            self.predicted[t][i] = text
        self.left -= len(part.rows)


def _answered(parts: Sequence[tuple[_Sheet, Part]], scoring: str) -> Callable[[], list[str]]:
    """What gives the answers to the rows of a pass, when it is called."""
    sheet, trunk = parts[0][0], parts[0][0].asked.trunk
    whole, updates, labels = [], [], []
    for own, part in parts:
        slots = [t for t, _ in part.rows]
        batch = make_batch([own.asked.sets[t].inputs[i] for t, i in part.rows], None, slots).to(trunk.device)
        labels += [own.labels[t] for t in slots]
        updates.append(update_for(own.asked.prompts, trunk, batch))
        whole.append(own.prompts_for(batch))
    added = [update for update in updates if update is not None]
    return SCORINGS[scoring](trunk, *join(whole), labels, sheet.longest, torch.cat(added) if added else None)


def prompts_for(prompts: RunPrompts, trunk: Trunk, batch: Batch) -> tuple[TargetPrompts, Batch]:
    """Target prompts for a batch whose slots are task indices, and the batch to use them with.

    It is the same batch but for prompts that are composed per row: each row becomes a slot of its own.
    """
    device = trunk.embedding.device
    if not prompts.shape.per_row:
        return targets_of(prompts, device), batch
    composition, params = prompts.composed(device)
    tasks = batch.slots.to(device)
    texts = trunk.texts(batch)
    rows = compose_rows(composition, params, prompts.shape, torch.zeros_like(tasks), tasks, texts, prompts.mask)
    return TargetPrompts.from_stacks([rows]), replace(batch, slots=torch.arange(len(tasks)))


def targets_of(prompts: RunPrompts, device: torch.device) -> TargetPrompts:
    """The target prompts of a run's tasks, on a device, of a shape where they do not depend on the row."""
    return TargetPrompts.from_stacks([moved(prompts.tensors["targets"], device)])


def update_for(prompts: RunPrompts, trunk: Trunk, batch: Batch) -> Tensor | None:
    """What the prompts' method adds to the token embeddings of a batch whose slots are task indices: (N, d), None where
    that is nothing.
    """
    if not prompts.shape.updates_inputs:
        return None
    params = prompts.composed(trunk.device)[1]
    tasks = batch.slots.to(trunk.device)
    return update_inputs(params, prompts.shape, torch.zeros_like(tasks), tasks, trunk.texts(batch))


def scored(sets: list[ScoredRows], predicted: list[list[str]], mode: str) -> dict[str, Any]:
    """Per name of a task that has rows, `primary`, `scores` (percent), `n` and `predictions`, the counts of each
    predicted string under each gold label.
    """
    return {
        of.task.name: {
            "primary": of.task.primary,
            "scores": score(of.task, of.golds, texts, mode, of.groups),
            "n": len(texts),
            "predictions": confusion(of.task, of.golds, texts, mode),
        }
        for of, texts in zip(sets, predicted, strict=True)
        if texts
    }


def average(tasks: dict[str, Any]) -> float:
    """Mean of the tasks' primary scores, as both papers average."""
    return sum(task["scores"][task["primary"]] for task in tasks.values()) / len(tasks)
