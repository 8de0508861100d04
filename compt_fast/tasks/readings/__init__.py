"""Readings: how rows as a data set publishes them become rows of a task's fields, one a file; `Task.reading` names it.

To add one, add such a file with `ENTRY`, a function that `Reading` describes. Rows that lack its columns, such as a
user's in a folder of files, are taken to be in the task's fields already.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from compt_fast.tasks.formats import Columns
from compt_fast.utils.errors import InputError, shown
from compt_fast.utils.registry import Registry

ORDER = ("multirc", "record", "wsc")


@dataclass(frozen=True)
class Reading:
    """`read` makes the columns of a task of those that are published, of which it needs the columns `needs`.

    It raises `InputError` that names the row for a cell of another type.
    """

    needs: tuple[str, ...]
    read: Callable[[Columns], Columns]


READINGS: Registry[Reading] = Registry(__name__)


def as_read(name: str, columns: Columns) -> Columns:
    """`columns` by the reading of that name, or as they are where there is none, or nothing for it to read."""
    if not name or any(needed not in columns.values for needed in READINGS[name].needs):
        return columns
    return READINGS[name].read(columns)


def with_columns(columns: Columns, **values: list[Any]) -> Columns:
    """`columns` with these besides, or in place of those of the same name."""
    return replace(columns, values={**columns.values, **values})


def cell(columns: Columns, name: str, row: int, kind: type, what: str) -> Any:
    """The value of a row in the column `name`; `InputError` where it is not of the type `kind`, which `what` says."""
    value = columns.values[name][row]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{columns.where(row)}: column {name!r} holds {shown(value)} where {what} belongs")
    return value


def number_in(columns: Columns, name: str, key: str, row: int) -> int:
    """The whole number `key` of the object in the column `name` of a row: an id, as the hub's data sets nest them."""
    value = cell(columns, name, row, dict, f"an object with the number {key!r}").get(key)
    if type(value) is not int:
        raise InputError(f"{columns.where(row)}: column {name!r}: {key!r} is {shown(value)}; it must be a whole number")
    return value
