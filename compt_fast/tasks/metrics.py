"""Scores of predicted strings, in per cent, and tables of what was predicted for what."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from compt_fast.tasks.table import SCORE_METRICS, Task
from compt_fast.tasks.text import label_text, label_texts
from compt_fast.utils.errors import InputError

OFF_LABEL = -1  # the class of a prediction that is no label


def score(
    task: Task,
    golds: Sequence[int | float],
    predictions: Sequence[str],
    label_mode: str,
    groups: Sequence[int] | None = None,
) -> dict[str, float]:
    """The task's metrics of `predictions` (strings, one a row) against `golds` (class ids or
    scores), in per cent; "em" needs the rows' `groups`.

    A class is right if its label text was predicted exactly, but for space around it. F1 is that of
    class 1 of two, or the mean over more classes. A prediction that is no label counts as a wrong
    label: the other one of two, an equal share of each of more (`_as_labels`). A prediction of a
    score that is no number counts as one below the scale (-1 for STS-B); where golds or predictions
    are all the same, a correlation is 0. "em" is the share of groups (the questions of MultiRC) of which every row
    is right. Raises `InputError` for no rows.
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
    scores = {metric: _agreement(metric, task, golds, found) for metric in task.metrics if metric != "em"}
    if "em" in task.metrics:
        scores["em"] = _whole_groups(golds, found, groups)
    return {metric: 100 * scores[metric] for metric in task.metrics}


def _whole_groups(golds: Sequence[int | float], found: Sequence[int], groups: Sequence[int] | None) -> float:
    if groups is None:
        raise ValueError("the metric em needs the groups of the rows")
    wrong = {group for gold, answer, group in zip(golds, found, groups, strict=True) if gold != answer}
    return 1 - len(wrong) / len(set(groups))


def _agreement(metric: str, task: Task, golds: Sequence[int | float], found: list[int]) -> float:
    # Imported late: this takes a second.
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    if metric == "accuracy":
        return float(accuracy_score(golds, found))
    if metric == "matthews" and len(set(golds)) < 2:
        return 0.0
    golds, found, weights = _as_labels(golds, found, len(task.labels))
    if metric == "matthews":
        return float(matthews_corrcoef(golds, found, sample_weight=weights))
    counted = [1] if len(task.labels) == 2 else list(range(len(task.labels)))
    return float(f1_score(golds, found, labels=counted, average="macro", zero_division=0, sample_weight=weights))


def _as_labels(
    golds: Sequence[int | float], found: Sequence[int], labels: int
) -> tuple[list[int | float], list[int], list[float]]:
    """Golds, predictions and weights in which every prediction is one of `labels` classes.

    An answer that is no label stands as every class but the right one, with weights that sum to 1.
    Of two classes that is the other one, as in T5's own evaluation: on a positive a false negative,
    on a negative a false positive. As a class of its own it would be rewarded: a model that answers
    nonsense to all negatives, and "positive" to all positives, would tell the two apart.
    """
    rows = [
        (gold, k, 1.0 if answer != OFF_LABEL else 1 / (labels - 1))
        for gold, answer in zip(golds, found, strict=True)
        for k in ([answer] if answer != OFF_LABEL else [k for k in range(labels) if k != gold])
    ]
    return [gold for gold, _, _ in rows], [k for _, k, _ in rows], [weight for _, _, weight in rows]


def _correlation(metric: str, golds: Sequence[float], numbers: list[float]) -> float:
    from scipy.stats import pearsonr, spearmanr

    if len(set(golds)) < 2 or len(set(numbers)) < 2:
        return 0.0
    assert metric in SCORE_METRICS
    correlation = spearmanr if metric == "spearman" else pearsonr
    return float(correlation(np.asarray(golds, dtype=float), np.asarray(numbers)).statistic)


def is_answer(task: Task, text: str, label_mode: str) -> bool:
    """Whether a predicted string is one of the task's labels, or a number where these are scores."""
    if task.is_score:
        return finite(text) is not None
    return text.strip() in label_texts(task, label_mode)


def _number(task: Task, text: str) -> float:
    """The number that `text` writes, or one below the scale."""
    number = finite(text)
    return task.score_range[0] - 1 if number is None else number


def finite(text: str) -> float | None:
    """The finite number that a text writes, else None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


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
