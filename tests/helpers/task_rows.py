"""Rows of a task as it is loaded, and rows to load."""

from __future__ import annotations

from typing import Any

import numpy as np

from compt_fast.tasks.loaders import TaskData


def check_rows(data: TaskData) -> None:
    """All rows can be read, and labels are what the task says."""
    task = data.task
    for split in (data.train, data.evaluation):
        split.check()
        assert len(split) == len(split.labels) > 0
        row = split[len(split) - 1]
        assert len(row.texts) == len(task.fields)
        assert row.label == split.labels[-1]
        if task.is_score:
            assert split.labels.dtype == np.float64
            assert split.labels.min() >= 0 and split.labels.max() <= 5
        else:
            assert split.labels.dtype == np.int64
            assert set(split.labels.tolist()) == set(range(len(task.labels)))


def local_rows(n: int, columns: tuple[str, ...], labels: tuple[Any, ...]) -> list[dict[str, Any]]:
    """`n` rows with these columns, whose labels take turns."""
    return [{column: f"{column} {k}" for column in columns} | {"label": labels[k % len(labels)]} for k in range(n)]
