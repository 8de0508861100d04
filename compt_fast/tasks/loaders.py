"""Where a task's rows come from: the hub, a folder in the hub's layout, a folder of files, the
embedded world, or the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import NoReturn

from compt_fast.mini.rows import Row
from compt_fast.tasks.formats import FORMATS, Columns, arrow_columns, find_split, read_columns
from compt_fast.tasks.readings import as_read
from compt_fast.tasks.sampling import fixed_order
from compt_fast.tasks.splits import Split
from compt_fast.tasks.table import MAKERS, Task
from compt_fast.utils.errors import InputError
from compt_fast.utils.hub import asked

# Rows drawn of each embedded split: ours; enough for the few-shot runs and for a full one of some
# thousand rows.
MINI_ROWS = {"train": 3000, "validation": 1000}
# The share of a single file of the user's rows that is set aside for evaluation: ours.
HELD_OUT = 0.2


@dataclass(frozen=True)
class TaskData:
    """A task and its rows: those to draw examples from, and those to be scored on."""

    task: Task
    train: Split
    evaluation: Split


def load_task(
    task: Task, *, data_root: Path | None = None, data: Path | None = None, skip_empty: bool = False
) -> TaskData:
    """Load a task's rows and check all labels; texts of local files are all checked, those of large
    sets when read. Rows of published sets without a text are left out, see `Split.note`.

    `data_root` is a folder in the hub's layout (`nyu-mll/glue/rte/train-00000-of-00001.parquet`),
    `data` a folder of `<task>/{train,validation,test}.{jsonl,csv,tsv,parquet}`; with neither, the
    hub. The user's own tasks say themselves where their rows are, and are read in `data` where that
    has a folder of theirs. Rows of local files without a text or label are left out with
    `skip_empty`, else refused. Raises `InputError` naming file and row.
    """
    if data_root is not None and data is not None:
        raise InputError("--data-root and --data both say where the rows are; give one")
    if task.origin == "mini" and (data_root or data):
        raise InputError(
            f"{task.name} has embedded rows and none in {data_root or data}; name the tasks to be "
            "read there with --suite or --tasks"
        )
    if task.origin == "mini":
        return TaskData(task, _mini_split(task, "train"), _mini_split(task, "validation"))
    if task.origin == "file":
        there = data is not None and (data / task.name).is_dir()
        return _load_own(replace(task, path=data / task.name) if data and there else task, skip_empty)
    if data is not None:
        train, evaluation = _folder_splits(task, data / task.name)
        return TaskData(task, *(_renamed(task, columns, skip_empty) for columns in (train, evaluation)))
    splits = (task.train_split, task.eval_split)
    if data_root is not None:
        return TaskData(task, *(_local_hub_split(task, data_root, split) for split in splits))
    return TaskData(task, *(_hub_split(task, split) for split in splits))


def check_read(tasks: Sequence[Task], *, data_root: Path | None = None, data: Path | None = None) -> None:
    """Raise `InputError` where `load_task` reads none of `tasks` in the folder that is named."""
    if any(task.origin != "file" for task in tasks):
        return
    if data_root is not None:
        raise InputError(
            f"--data-root {data_root}: none of the tasks ({_names(tasks)}) is read there, as their task files say "
            "where their rows are; leave it out, or name the folder of their rows with --data"
        )
    if data is not None:
        _check_folders(tasks, data, "; leave it out to read the rows that their task files name")


def _check_folders(tasks: Sequence[Task], place: Path, hint: str) -> None:
    """Raise `InputError` that ends with `hint` where `place` has a folder of none of `tasks`."""
    if not any((place / task.name).is_dir() for task in tasks):
        raise InputError(
            f"--data {place}: there is no folder of any of the tasks ({_names(tasks)}), such as "
            f"{place / tasks[0].name}{hint}"
        )


def _names(tasks: Sequence[Task]) -> str:
    return ", ".join(task.name for task in tasks)


def load_scored(tasks: Sequence[Task], place: Path, *, skip_empty: bool = False) -> list[TaskData]:
    """`tasks` with rows to be scored on from `place` and none to train on.

    `place` is a labelled file of the one task, or a folder of `<task>/{validation,test}.<format>`, of which a task
    that it has no folder of gets no rows. Columns are called as in `load_task`. Raises `InputError` for a file
    beside several tasks, and for a folder of none of them.
    """
    if place.is_file() and len(tasks) > 1:
        raise InputError(
            f"--data {place}: a file, and the run has the tasks {_names(tasks)}; put it where its task is named, as in "
            f"DIR/{tasks[0].name}/test{place.suffix}, and say --data DIR"
        )
    nowhere = not place.is_file()
    if nowhere:
        _check_folders(tasks, place, " with a file validation or test")
    return [
        TaskData(task, _no_rows(task), _no_rows(task))
        if nowhere and not (place / task.name).is_dir()
        else _scored(task, place, skip_empty)
        for task in tasks
    ]


def _scored(task: Task, place: Path, skip_empty: bool) -> TaskData:
    columns = read_columns([place] if place.is_file() else _evaluation_files(task, place / task.name))
    named = _checked if task.origin == "file" else _renamed
    return TaskData(task, _no_rows(task), named(task, columns, skip_empty))


def _no_rows(task: Task) -> Split:
    names = [*(column for column, _ in task.fields), task.label_column, *filter(None, [task.group])]
    return Split(task, Columns({name: [] for name in names}, str, task.name, 0))


def task_of(task: Task, train: Columns, evaluation: Columns, *, skip_empty: bool = False) -> TaskData:
    """A task with rows that are in memory. Columns are called as in `load_task`, and errors are the same."""
    named = _checked if task.origin == "file" else _renamed
    return TaskData(task, *(named(task, columns, skip_empty) for columns in (train, evaluation)))


@cache
def _mini_rows(name: str, split: str) -> list[Row]:
    return MAKERS[name].draw(name, split, MINI_ROWS[split])


def _mini_split(task: Task, split: str) -> Split:
    rows = _mini_rows(task.name, split)
    values = {name: [row[name] for row in rows] for name in rows[0]}
    return Split(task, Columns(values, lambda row: f"{task.name} {split}:{row + 1}", task.name, len(rows)))


def _local_hub_split(task: Task, root: Path, split: str) -> Split:
    folder = root / task.dataset
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; {task.name} is read from {task.dataset} in the data root")
    # A configuration has a folder of its own, or the data set's only one is called "data" or is not
    # there at all.
    places = [folder / (task.config or "data"), folder / "data", folder]
    for place in places:
        if paths := find_split(place, split):
            return Split(task, read_columns(paths), skip_empty=True)
    raise InputError(f"{places[0]}: no {split}-*-of-*.parquet (or {split}.{'|'.join(FORMATS)}) for {task.name}")


def _hub_split(task: Task, split: str) -> Split:
    origin = " ".join(filter(None, (task.dataset, task.config, split)))
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"{task.name}: reading {task.dataset} from the hub needs `datasets` (pip install "
            "datasets); or give a local folder with --data-root or --data"
        ) from None
    with asked() as unreachable:
        try:
            rows = datasets.load_dataset(task.dataset, task.config, split=split)
            table = rows.with_format("arrow")[:]
        except Exception as error:  # network, hub and cache each raise their own kinds
            why = f"{unreachable}, and no copy is cached" if unreachable else str(error)
            raise InputError(
                f"{task.name}: cannot read {origin} from the hub: {why}; "
                "without a network, give a local folder with --data-root or --data"
            ) from error
    return Split(task, arrow_columns(table, lambda row: f"{origin}:{row + 1}", origin), skip_empty=True)


def _folder_splits(task: Task, folder: Path) -> tuple[Columns, Columns]:
    """Rows of `train` in `folder`, and of the task's own evaluation split or else the other one."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; it must hold the train and validation (or test) files of {task.name}"
        )
    train = find_split(folder, "train") or _no_file(task, folder, "train")
    return read_columns(train), read_columns(_evaluation_files(task, folder))


def _evaluation_files(task: Task, folder: Path) -> list[Path]:
    """The files of the task's own evaluation split in `folder`, or else of the other one."""
    own = task.eval_split.split("_")[0]  # validation_matched is plain validation here
    other = "test" if own == "validation" else "validation"
    return find_split(folder, own) or find_split(folder, other) or _no_file(task, folder, f"{own} (or {other})")


def _no_file(task: Task, folder: Path, name: str) -> NoReturn:
    near = next((path.name for path in sorted(folder.glob("*.json")) if path.stem in name), None)
    hint = f"; {near} is not read: one JSON object a line makes it {near}l" if near else ""
    raise InputError(f"{folder}: no file {name}.{{{','.join(FORMATS)}}} for {task.name}{hint}")


def _checked(task: Task, columns: Columns, skip_empty: bool) -> Split:
    split = Split(task, columns, skip_empty=skip_empty)
    split.check()
    return split


def _renamed(task: Task, columns: Columns, skip_empty: bool) -> Split:
    """Rows of a file whose texts are called `sentence1`, `sentence2`, or as in the data set or the
    text, and whose labels are called `label`."""
    columns = as_read(task.reading, columns)
    fields = []
    for k, (column, name) in enumerate(task.fields, start=1):
        names = dict.fromkeys((f"sentence{k}", name, column))
        fields.append((columns.first(names, f"the texts of {task.name}"), name))
    return _checked(replace(task, fields=tuple(fields), label_column="label", reading=""), columns, skip_empty)


def _load_own(task: Task, skip_empty: bool) -> TaskData:
    """Rows of a user's task: a folder of splits, or one file of which a fifth, in a fixed shuffle,
    is for evaluation."""
    assert task.path is not None
    if task.path.is_dir():
        train, evaluation = _folder_splits(task, task.path)
        return TaskData(task, *(_checked(task, columns, skip_empty) for columns in (train, evaluation)))
    columns = read_columns([task.path])
    _checked(task, columns, skip_empty)
    order = fixed_order(columns.size)
    held_out = max(1, round(HELD_OUT * columns.size))
    if held_out == columns.size:
        raise InputError(f"{task.path}: one row; {task.name} needs rows to train on and others to be scored on")
    parts = (columns.take(part) for part in (order[held_out:], order[:held_out]))
    return TaskData(task, *(Split(task, part, skip_empty=skip_empty) for part in parts))
