"""Scoring of one run's prompts on the rows of all its tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from compt_fast.evaluation.scorings import SCORINGS, Labels
from compt_fast.models.api import Trunk
from compt_fast.models.batch import Batch, TargetPrompts, make_batch
from compt_fast.prompts.artifact import RunPrompts
from compt_fast.prompts.compose import compose_rows, update_inputs
from compt_fast.tasks.examples import JobData, ScoredRows
from compt_fast.tasks.metrics import confusion, score
from compt_fast.tasks.text import label_texts


@torch.no_grad()
def predict(
    trunk: Trunk,
    data: JobData,
    prompts: RunPrompts,
    sets: list[ScoredRows],
    *,
    mode: str,
    scoring: str,
    batch_size: int,
    after_batch: Callable[[], None] = lambda: None,
) -> list[list[str]]:
    """The string predicted for every row of `sets`, which are one a task in the slots' order.

    Rows of all tasks go through the trunk together, sorted by length. Batches are formed from this
    run's rows alone, so that its predictions do not depend on the fleet it trained in.
    """
    rows = [(t, i) for t, of in enumerate(sets) for i in range(len(of.inputs))]
    rows.sort(key=lambda row: len(sets[row[0]].inputs[row[1]]))
    predicted = [[""] * len(of.inputs) for of in sets]
    labels = [Labels(label_texts(of.task, mode), data.label_ids(of.task, mode)) for of in sets]
    answer, longest = SCORINGS[scoring], data.longest_label(mode)
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        slots = [t for t, _ in part]
        batch = make_batch([sets[t].inputs[i] for t, i in part], None, slots).to(trunk.device)
        update = update_for(prompts, trunk, batch)
        targets, batch = prompts_for(prompts, trunk, batch)
        texts = answer(trunk, targets, batch, [labels[t] for t in slots], longest, update)
        for (t, i), text in zip(part, texts, strict=True):
            predicted[t][i] = text
        after_batch()
    return predicted


def prompts_for(prompts: RunPrompts, trunk: Trunk, batch: Batch) -> tuple[TargetPrompts, Batch]:
    """Target prompts for a batch whose slots are task indices, and the batch to use them with.

    It is the same batch but for prompts that are composed per row: each row becomes a slot of its own.
    """
    device = trunk.embedding.device
    if not prompts.shape.per_row:
        return TargetPrompts.from_stacks([prompts.tensors["targets"].to(device)]), batch
    composition, params = prompts.composed(device)
    tasks = batch.slots.to(device)
    texts = trunk.texts(batch)
    rows = compose_rows(composition, params, prompts.shape, torch.zeros_like(tasks), tasks, texts, prompts.mask)
    return TargetPrompts.from_stacks([rows]), replace(batch, slots=torch.arange(len(tasks)))


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
