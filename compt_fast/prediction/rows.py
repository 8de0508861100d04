"""Rows to predict, in whatever form a program has them: one row, a list, a data frame, a data set, an iterator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compt_fast.prediction.prompts import TaskPrompt
from compt_fast.tasks.splits import checked_text
from compt_fast.tasks.text import read_inputs
from compt_fast.utils.errors import InputError, shown, unknown

TASK = "task"
LONGEST = 2**20
"""Characters of a text: far more than any trunk reads, and little enough to tokenise at once."""


@dataclass(frozen=True)
class Placed:
    """A row with its place, which begins what is said of it; or, in the place of a row that could not be read, why."""

    row: Any
    where: str


@dataclass(frozen=True)
class CheckedRow:
    """A row that can be answered: the prompt of its task, and its texts in the order of the task's fields."""

    prompt: TaskPrompt
    texts: list[str]


@dataclass(frozen=True)
class EncodedRow:
    """A row as the trunk reads it: the prompt of its task, and its token ids with </s>."""

    prompt: TaskPrompt
    input_ids: list[int]


def rows_of(rows: Any) -> Iterable[Mapping[str, Any]]:
    """The rows of a list or iterator of mappings, of a pandas or polars data frame, or of a `datasets.Dataset`.

    Raises `InputError` for what holds no rows; what a row is, `checked` says.
    """
    if hasattr(rows, "iter_rows"):  # polars
        return rows.iter_rows(named=True)
    if hasattr(rows, "itertuples"):  # pandas
        return _of_pandas(rows)
    if isinstance(rows, str | bytes) or not isinstance(rows, Iterable):
        raise InputError(f"rows are mappings from column to text, a list of them, or a data frame, not {shown(rows)}")
    return rows


def _of_pandas(frame: Any) -> Iterator[Mapping[str, Any]]:
    names = [str(name) for name in frame.columns]
    return (dict(zip(names, values, strict=True)) for values in frame.itertuples(index=False, name=None))


def checked(placed: Placed, prompts: Mapping[str, TaskPrompt], task: str | None) -> CheckedRow:
    """A row, which names its task in the column `task` unless `task` does, for one of `prompts`.

    Raises `InputError` that begins with the row's place for a row without one of its task's columns, for a text that is
    empty, none, or longer than `LONGEST`, and for an unknown task; and the error that stands in a row's place.
    """
    row, where = placed.row, placed.where
    if isinstance(row, InputError):
        raise row
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: a row is a mapping from column to text, not {shown(row)}")
    prompt = _prompt(row, prompts, task, where)
    return CheckedRow(prompt, [_text(row, column, prompt, where) for column, _ in prompt.task.fields])


def encoded(rows: Sequence[CheckedRow], tokenizer: Any) -> list[EncodedRow]:
    """Rows as the trunk of this tokenizer reads them, all through the tokenizer at once."""
    inputs = read_inputs([(row.prompt.task, bool(row.prompt.text.prefix), row.texts) for row in rows], tokenizer)
    return [
        EncodedRow(row.prompt, read.cut(row.prompt.text.max_source_length or 0))
        for row, read in zip(rows, inputs, strict=True)
    ]


def _prompt(row: Mapping[str, Any], prompts: Mapping[str, TaskPrompt], task: str | None, where: str) -> TaskPrompt:
    """The prompt of a row's task: the one that is named, or the only one there is."""
    name = row.get(TASK) if task is None else task
    if name is None and len(prompts) == 1:
        (name,) = prompts
    if name is None:
        raise InputError(f"{where}: of which task is it? A column {TASK!r} says it, one of {', '.join(prompts)}")
    if not isinstance(name, str) or name not in prompts:
        raise InputError(f"{where}: {unknown('task', str(name), prompts)}")
    return prompts[name]


def _text(row: Mapping[str, Any], column: str, prompt: TaskPrompt, where: str) -> str:
    if column not in row:
        columns = ", ".join(repr(name) for name, _ in prompt.task.fields)
        raise InputError(f"{where}: no column {column!r}; a row of {prompt.task.name} has {columns}")
    text = checked_text(row[column], column, where)
    if len(text) > LONGEST:
        raise InputError(f"{where}: column {column!r} holds {len(text):,} characters; up to {LONGEST:,} are read")
    return text
