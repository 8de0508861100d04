"""Where a task's rows come from: the hub, a folder in the hub's layout, a folder of files, the
embedded world, or the user."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from compt_fast.errors import InputError
from compt_fast.tasks.formats import FORMATS, Columns, arrow_columns, find_split, read_columns
from compt_fast.tasks.sampling import fixed_order
from compt_fast.tasks.splits import Split
from compt_fast.tasks.table import Task

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


def load_task(task: Task, *, data_root: Path | None = None, data: Path | None = None) -> TaskData:
    """Load a task's rows and check all labels; texts of local files are all checked, those of large
    sets when read. Rows of published sets without a text are left out, see `Split.note`.

    `data_root` is a folder in the hub's layout (`nyu-mll/glue/rte/train-00000-of-00001.parquet`),
    `data` a folder of `<task>/{train,validation,test}.{jsonl,csv,tsv,parquet}`; with neither, the
    hub. The user's own tasks say themselves where their rows are, and heed neither if that is a
    file. Raises `InputError` naming file and row.
    """
    if data_root is not None and data is not None:
        raise InputError("--data-root and --data both say where the rows are; give one")
    if task.source == "mini" and (data_root or data):
        raise InputError(
            f"{task.name} has embedded rows and none in {data_root or data}; name the tasks to be "
            "read there with --suite or --tasks"
        )
    if task.source == "mini":
        return TaskData(task, _mini_split(task, "train"), _mini_split(task, "validation"))
    if task.source == "file":
        return _load_own(task)
    if data is not None:
        train, evaluation = _folder_splits(task, data / task.name)
        return TaskData(task, _renamed(task, train), _renamed(task, evaluation))
    splits = (task.train_split, task.eval_split)
    if data_root is not None:
        return TaskData(task, *(_local_hub_split(task, data_root, split) for split in splits))
    return TaskData(task, *(_hub_split(task, split) for split in splits))


@cache
def _mini_rows(name: str, split: str) -> list[dict[str, Any]]:
    from compt_fast.mini.rows import draw

    return draw(name, split, MINI_ROWS[split])


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
    try:
        rows = datasets.load_dataset(task.dataset, task.config, split=split)
        table = rows.with_format("arrow")[:]
    except Exception as error:  # network, hub and cache each raise their own kinds
        raise InputError(
            f"{task.name}: cannot read {origin} from the hub: {error}; "
            "without a network, give a local folder with --data-root or --data"
        ) from error
    return Split(task, arrow_columns(table, lambda row: f"{origin}:{row + 1}", origin), skip_empty=True)


def _folder_splits(task: Task, folder: Path) -> tuple[Columns, Columns]:
    """Rows of `train` in `folder`, and of the task's own evaluation split or else the other one."""
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; it must hold the train and validation (or test) files of {task.name}"
        )
    own = task.eval_split.split("_")[0]  # validation_matched is plain validation here
    other = "test" if own == "validation" else "validation"
    train = find_split(folder, "train")
    evaluation = find_split(folder, own) or find_split(folder, other)
    for name, paths in (("train", train), (f"{own} (or {other})", evaluation)):
        if not paths:
            raise InputError(f"{folder}: no file {name}.{{{','.join(FORMATS)}}} for {task.name}")
    return read_columns(train), read_columns(evaluation)


def _checked(task: Task, columns: Columns) -> Split:
    split = Split(task, columns)
    split.check()
    return split


def _renamed(task: Task, columns: Columns) -> Split:
    """Rows of a file whose texts are called `sentence1`, `sentence2`, or as in the data set or the
    text, and whose labels are called `label`."""
    fields = []
    for k, (column, name) in enumerate(task.fields, start=1):
        names = dict.fromkeys((f"sentence{k}", name, column))
        fields.append((columns.first(names, f"the texts of {task.name}"), name))
    return _checked(replace(task, fields=tuple(fields), label_column="label"), columns)


def _load_own(task: Task) -> TaskData:
    """Rows of a user's task: a folder of splits, or one file of which a fifth, in a fixed shuffle,
    is for evaluation."""
    assert task.path is not None
    if task.path.is_dir():
        train, evaluation = _folder_splits(task, task.path)
        return TaskData(task, _checked(task, train), _checked(task, evaluation))
    columns = read_columns([task.path])
    _checked(task, columns)
    order = fixed_order(columns.size)
    held_out = max(1, round(HELD_OUT * columns.size))
    if held_out == columns.size:
        raise InputError(f"{task.path}: one row; {task.name} needs rows to train on and others to be scored on")
    return TaskData(task, *(Split(task, columns.take(part)) for part in (order[held_out:], order[:held_out])))
