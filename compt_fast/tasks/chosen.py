"""The tasks that flags name: those of the table, and the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from string import ascii_uppercase

from compt_fast.tasks.table import DEFAULT_SUITE, SUITES, TASKS, Task
from compt_fast.tasks.user import load_task_file
from compt_fast.utils.errors import InputError, unknown


def resolve_tasks(
    suite: str | None,
    tasks: list[str] | None,
    include: list[str],
    exclude: list[str],
    task_files: list[Path],
    defined: Sequence[Task] = (),
) -> list[Task]:
    """The tasks that flags name: of the suite or list, then of task files, then included ones.

    `defined` are tasks of the user's that stand in no file. One of these, or of a file, takes part once it is given;
    naming it in `tasks` only gives it a place in the order. With neither a suite nor a list, the tasks are the user's
    own, or those of the suite `mini` where there are none. Raises `InputError` for an unknown, doubled or clashing
    name, and where no task is left.
    """
    own = _own_tasks(task_files, defined)
    known = {**TASKS, **own}
    if suite is not None and tasks:
        raise InputError("a suite and a list of tasks are both given; give one (--include adds tasks to a suite)")
    if tasks:
        names = list(tasks)
    elif suite is None and own:
        names = []
    elif (suite or DEFAULT_SUITE) in SUITES:
        names = list(SUITES[suite or DEFAULT_SUITE])
    else:
        raise unknown("suite", suite or "", SUITES)
    for name in (*names, *include):
        if name not in known:
            raise InputError(f"{unknown('task', name, known)} A task of your own needs its --task-file.")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"task {name!r} is named twice; name it once")
    names = list(dict.fromkeys([*names, *own, *include]))
    for name in exclude:
        if name not in names:
            raise unknown("task to exclude", name, names)
    left = [known[name] for name in names if name not in exclude]
    if not left:
        raise InputError("no task is left: every task of the suite or list is excluded")
    return left


def _own_tasks(task_files: list[Path], defined: Sequence[Task]) -> dict[str, Task]:
    """The tasks of the user's files, and those that are `defined`, by name, each with a letter that no other has."""
    used = {task.letter for task in TASKS.values()}
    pairs = map("".join, product(ascii_uppercase, repeat=2))
    free = (letter for letter in chain(ascii_uppercase, pairs) if letter not in used)
    own: dict[str, Task] = {}
    for place, task in [*((path, load_task_file(path)) for path in task_files), *(("task_file", of) for of in defined)]:
        if task.name in own:
            raise InputError(f"{place}: a task named {task.name!r} stands in another task file too; rename one")
        own[task.name] = replace(task, letter=next(free))
    return own
