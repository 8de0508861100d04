"""Scores of predicted strings, in per cent, and tables of what was predicted for what."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from compt_fast.errors import InputError
from compt_fast.tasks.table import SCORE_METRICS, Task
from compt_fast.tasks.text import label_text, label_texts

OFF_LABEL = -1  # the class of a prediction that is no label: never right, never a positive


def score(task: Task, golds: Sequence[int | float], predictions: Sequence[str], label_mode: str) -> dict[str, float]:
    """The task's metrics of `predictions` (strings, one a row) against `golds` (class ids or
    scores), in per cent.

    A class is right if its label text was predicted exactly, but for space around it. F1 is that of
    class 1 of two, or the mean over more classes. A prediction of a score that is no number counts
    as one below the scale (-1 for STS-B); where golds or predictions are all the same, a
    correlation is 0. Raises `InputError` for no rows.
    """
    if not golds:
        raise InputError(f"{task.name}: no rows to score")
    if len(golds) != len(predictions):
        raise ValueError(f"{len(predictions)} predictions for {len(golds)} rows")
    if task.is_score:
        numbers = [_number(task, text) for text in predictions]
        return {metric: 100 * _correlation(metric, golds, numbers) for metric in task.metrics}
    classes = {text: k for k, text in enumerate(label_texts(task, label_mode))}
    found = [classes.get(text.strip(), OFF_LABEL) for text in predictions]
    return {metric: 100 * _agreement(metric, task, golds, found) for metric in task.metrics}


def _agreement(metric: str, task: Task, golds: Sequence[int | float], found: list[int]) -> float:
    # Imported late: this takes a second.
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    if metric == "matthews":
        return float(matthews_corrcoef(golds, found)) if len(set(golds)) > 1 else 0.0
    if metric == "f1":
        counted = [1] if len(task.labels) == 2 else list(range(len(task.labels)))
        return float(f1_score(golds, found, labels=counted, average="macro", zero_division=0))
    return float(accuracy_score(golds, found))


def _correlation(metric: str, golds: Sequence[float], numbers: list[float]) -> float:
    from scipy.stats import pearsonr, spearmanr

    if len(set(golds)) < 2 or len(set(numbers)) < 2:
        return 0.0
    assert metric in SCORE_METRICS
    correlation = spearmanr if metric == "spearman" else pearsonr
    return float(correlation(np.asarray(golds, dtype=float), np.asarray(numbers)).statistic)


def _number(task: Task, text: str) -> float:
    """The number that `text` writes, or one below the scale."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    return number if math.isfinite(number) else task.score_range[0] - 1


def confusion(
    task: Task, golds: Sequence[int | float], predictions: Sequence[str], label_mode: str
) -> dict[str, dict[str, int]]:
    """How often each string was predicted for each label: `{label text: {predicted: count}}`.

    Labels stand in their own order, predictions from the most frequent on; strings that are no
    label stand as they are.
    """
    order = label_texts(task, label_mode)
    pairs = Counter(
        (label_text(task, gold, label_mode), text.strip()) for gold, text in zip(golds, predictions, strict=True)
    )
    table: dict[str, dict[str, int]] = {}
    for (gold, text), count in sorted(pairs.items(), key=lambda item: (order.index(item[0][0]), -item[1], item[0][1])):
        table.setdefault(gold, {})[text] = count
    return table
