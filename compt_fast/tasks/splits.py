"""Rows of one split with their labels checked and counted as class ids or scores."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from compt_fast.tasks.formats import Columns, is_empty
from compt_fast.tasks.readings import as_read
from compt_fast.tasks.table import Task
from compt_fast.utils.errors import InputError, shown, unknown
from compt_fast.utils.numbers import number

_HINT = "; fill it, or leave such rows out with --skip-empty"


@dataclass(frozen=True)
class Row:
    """One example: its texts in the order of `Task.fields`, its label (a class id or a score), and
    its place."""

    texts: tuple[str, ...]
    label: int | float
    where: str  # "file:line" (Parquet: "file:row"), for messages


class Split:
    """The rows of one split. `labels` (n,) are all there: int64 class ids, or float64 scores; of a task with a
    `group`, so are `groups` (n,), int64 from 0 in the order in which they appear, else None.

    Texts are read, and checked, when a row is asked for: a large data set costs no more than the
    rows that are used. Published data sets, whose rows no user can mend, are read with
    `skip_empty`: rows without a text or label are left out, and `note` says so.
    """

    def __init__(self, task: Task, columns: Columns, *, skip_empty: bool = False) -> None:
        columns = as_read(task.reading, columns)
        self._names = [columns.first([column], f"the texts of {task.name}") for column, _ in task.fields]
        self.note = ""
        if skip_empty:
            label = [task.label_column] if task.label_column in columns.values else []
            columns, self.note = _without_empty(task, columns, [*self._names, *label])
        self._texts = [columns.values[name] for name in self._names]
        self.where = columns.where
        label_column = columns.first([task.label_column], f"the labels of {task.name}")
        self.labels = read_labels(task, list(columns.values[label_column]), columns.where)
        self.groups = _groups(task, columns) if task.group else None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Row:
        """Row `index`, from 0. Raises `InputError` for a text that is empty or none."""
        label = self.labels[index].item()
        where = self.where(index)
        pairs = zip(self._texts, self._names, strict=True)
        return Row(tuple(checked_text(column[index], name, where, _HINT) for column, name in pairs), label, where)

    def __iter__(self) -> Iterator[Row]:
        return map(self.__getitem__, range(len(self)))

    def check(self) -> None:
        """Raise `InputError` for the first text that is empty or none."""
        for column, name in zip(self._texts, self._names, strict=True):
            for index, value in enumerate(column):
                checked_text(value, name, partial(self.where, index), _HINT)


def _groups(task: Task, columns: Columns) -> np.ndarray:
    """The group of each row by number. Raises `InputError` for a missing column, and naming the row for no group."""
    values = columns.values[columns.first([task.group], f"the groups of {task.name}")]
    numbers: dict[Any, int] = {}
    groups = np.empty(columns.size, dtype=np.int64)
    for row, value in enumerate(values):
        if is_empty(value) or not isinstance(value, int | str):
            raise InputError(
                f"{columns.where(row)}: column {task.group!r} holds {shown(value)}; it must say, by a number or a "
                "text, what the row belongs to"
            )
        groups[row] = numbers.setdefault(value, len(numbers))
    return groups


def _without_empty(task: Task, columns: Columns, names: list[str]) -> tuple[Columns, str]:
    """The rows that have something in all columns, and a line on those left out, or "" where there are none."""
    empty = np.logical_or.reduce([columns.empty(name) for name in names])
    count = int(empty.sum())
    if not count:
        return columns, ""
    if count == columns.size:
        raise InputError(f"{columns.origin}: every row has an empty text or label; {task.name} needs whole rows")
    first = columns.where(int(empty.argmax()))
    note = f"{task.name}: left out for an empty text or label: {count:,} of {columns.size:,} rows, the first {first}"
    return columns.take(np.flatnonzero(~empty)), note


def checked_text(value: Any, name: str, where: str | Callable[[], str], empty_hint: str = "") -> str:
    """`value` of the column `name`, checked to be a text that says something.

    Raises `InputError` that begins with `where`, which may be a call and is made only for a message; for a text that is
    missing or empty it ends with `empty_hint`.
    """
    problem = None
    if value is None:
        problem = "is missing"
    elif not isinstance(value, str):
        problem = f"holds {_shown(value)} where a text belongs"
    elif not value.strip():
        problem = "is empty"
    elif "\0" in value:
        problem = "holds a NUL character, which no text has"
    elif not _encodable(value):
        problem = "holds half of a surrogate pair, which is no character"
    if problem:
        place = where if isinstance(where, str) else where()
        raise InputError(f"{place}: column {name!r} {problem}{empty_hint if is_empty(value) else ''}")
    return str(value)


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    kinds = {bool: "the truth value", int: "the number", float: "the number", str: "the text"}
    return f"{kinds.get(type(value), f'the {type(value).__name__}')} {value!r}"


def read_labels(task: Task, raw: list[Any], where: Callable[[int], str]) -> np.ndarray:
    """Labels (n,) of a task: int64 class ids, or float64 scores, from what stands in the data.

    A class is written as its word (`Task.label_values` or `Task.labels`), or, where no word of the
    task is a number, as its id. Raises `InputError` naming the row for a label that is missing,
    unknown, of another kind than the first, not a number, or out of range.
    """
    _check_kinds(task, raw, where)
    if task.is_score or task.thresholds:
        scores = _read_scores(task, raw, where)
        return np.digitize(scores, task.thresholds).astype(np.int64) if task.thresholds else scores
    ids = {value: _class_id(task, value) for value in set(raw)}
    words = {value for value in ids if str(value).strip() in _words(task)}
    for index, value in enumerate(raw):
        if ids[value] is None:
            raise _unknown_label(task, value, where(index))
        if (value in words) != (raw[0] in words):
            raise InputError(
                f"{where(index)}: label {shown(value)}, but {where(0)} has {shown(raw[0])}; "
                "write words or ids, not both"
            )
    return np.array([ids[value] for value in raw], dtype=np.int64)


def _check_kinds(task: Task, raw: list[Any], where: Callable[[int], str]) -> None:
    """All labels are texts or all are numbers."""
    kinds = set(map(type, raw))
    if kinds <= {int, float} or kinds == {str}:
        return
    for index, value in enumerate(raw):
        if value is None:
            raise _no_label(task, where(index))
        if type(value) not in (int, float, str):
            raise InputError(f"{where(index)}: label is {_shown(value)}; it must be a number or a word")
        if isinstance(value, str) != isinstance(raw[0], str):
            raise InputError(f"{where(index)}: label is {_shown(value)}, but that of {where(0)} is {_shown(raw[0])}")


def _words(task: Task) -> dict[str, int]:
    """Class ids by the words for them: those of the data set, and the label words where those say
    nothing else."""
    return {word: k for words in (task.labels, task.label_values) for k, word in enumerate(words)}


def _class_id(task: Task, value: int | float | str) -> int | None:
    """The class that `value` writes, or None."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of ids with gaps becomes floats on many ways
    words = _words(task)
    text = str(value).strip()
    if text in words:
        return words[text]
    if any(map(_is_id, words)) or not _is_id(text):
        return None
    return int(text) if int(text) < len(task.labels) else None


def _is_id(text: str) -> bool:
    return re.fullmatch("0|[1-9][0-9]{0,8}", text) is not None


def _no_label(task: Task, where: str) -> InputError:
    return InputError(
        f"{where}: no label (column {task.label_column!r}); fill it, or leave such rows out with --skip-empty"
    )


def _unknown_label(task: Task, value: Any, where: str) -> InputError:
    if not str(value).strip():
        return _no_label(task, where)
    if value in (-1, "-1"):
        return InputError(f"{where}: label -1 of {task.name}: the row is unlabelled; leave such rows out")
    words = _words(task)
    ids = [] if any(map(_is_id, words)) else [str(k) for k in range(len(task.labels))]
    text, hint = str(value).strip().removesuffix(".0"), ""
    if ids and _is_id(text):
        numbers = ", ".join(f'"{k}"' for k in range(1, len(ids) + 1))
        known = ", ".join(f"{k} is {word}" for k, word in enumerate(task.labels))
        hint = f" Ids count from 0 ({known}); for data that count from 1 give the task label_values = [{numbers}]."
    return InputError(f"{where}: {unknown(f'label of {task.name}', str(value), [*words, *ids])}{hint}")


def _read_scores(task: Task, raw: list[Any], where: Callable[[int], str]) -> np.ndarray:
    low, high = task.score_range
    scores = np.empty(len(raw), dtype=np.float64)
    for index, value in enumerate(raw):
        try:
            scores[index] = number(value.strip()) if isinstance(value, str) else float(value)
        except ValueError:
            if not str(value).strip():
                raise _no_label(task, where(index)) from None
            raise InputError(f"{where(index)}: score {shown(value)} of {task.name} is not a number") from None
    for index in np.flatnonzero(~((scores >= low) & (scores <= high)))[:1]:
        problem = "is not a number" if math.isnan(scores[index]) else f"is outside {low:g} to {high:g}"
        raise InputError(f"{where(int(index))}: score {shown(raw[index])} of {task.name} {problem}")
    return scores
