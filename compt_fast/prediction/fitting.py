"""Training from Python: the pipeline of `train` on rows that a program has, and what comes of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from rich.console import Console

from compt_fast.config.flags import check_settings, merge_flags, read_config
from compt_fast.config.job import JobSettings
from compt_fast.models.api import Trunk
from compt_fast.prediction.predictor import Predictor
from compt_fast.prediction.prompts import read_all
from compt_fast.prediction.rows import rows_of
from compt_fast.runs.folder import check_begun, claimed, own_folder
from compt_fast.runs.job import InMemory
from compt_fast.runs.pipeline import conduct, prepare
from compt_fast.tasks.formats import Columns, check_header
from compt_fast.tasks.table import TASKS, Task
from compt_fast.tasks.user import defined_task
from compt_fast.training.results import RunResult
from compt_fast.utils.errors import FIRST_SIGNAL, InputError, shown, unknown
from compt_fast.utils.inputs import read_document

if TYPE_CHECKING:
    import pandas as pd

EVALUATION = ("validation", "test")
"""What the rows to be scored on may be called."""


@dataclass(frozen=True)
class Fitted:
    """What came of a job: its run `folder`, the `results` of its runs, and the `trunk`, still open."""

    folder: Path
    results: Sequence[RunResult]
    trunk: Trunk

    @property
    def runs(self) -> list[str]:
        """The ids of the runs that have finished, and have prompts: a baseline has none."""
        return [result.id for result in self.results if result.status == "finished" and result.has_prompts]

    @property
    def scores(self) -> pd.DataFrame:
        """A row a run, task and metric: `run`, `method`, `shots`, `seed`, `task`, `metric`, `score` (percent), and
        whether that metric is the task's `primary` one.
        """
        import pandas as pd

        return pd.DataFrame(
            {
                "run": of.id,
                "method": of.method,
                "shots": of.shots,
                "seed": of.seed,
                "task": name,
                "metric": metric,
                "score": score,
                "primary": metric == task["primary"],
            }
            for of in self.results
            for name, task in of.tasks.items()
            for metric, score in task["scores"].items()
        )

    def predictor(self, run: str | None = None) -> Predictor:
        """What answers rows with a run's prompts (or those of all runs of a method that trains tasks apart), over the
        trunk that they were trained on. Without `run` there must be one run of each task.
        """
        return Predictor(self.trunk, read_all([self.folder], run))


def fit(
    data: Mapping[str, Mapping[str, Any]] | str | Path | None = None,
    *,
    task_file: Any = (),
    resume: str | Path | None = None,
    progress: bool = True,
    **flags: Any,
) -> Fitted:
    """Train prompts as the command `train` does, into a run folder, and return what came of it.

    `flags` are those of `train` with `_` for `-`, such as `method="spp,pt"`, `shots=[8, 16]` or `out="runs/mine"`;
    `python -m compt_fast.train --help` explains each. `data` are rows by task and split,
    `{"my_task": {"train": rows, "validation": rows}}`, in any form that `Predictor.predict` takes, with a column of
    labels; without `suite` or `tasks` its tasks are those that are trained. A path as `data` is the flag of that name.
    A task of your own is defined by one of `task_file`: the path of a task file, or the same as a dictionary, which
    needs no `data` where the rows stand in the argument `data`. With `progress` a bar, on a terminal or in a notebook,
    and the table of the scores are shown.

    `resume` is the folder of a job that was interrupted, or is to be extended by `flags` of more runs. Rows of `data`
    stand in no file: hand over the same again, with the same definitions of tasks; others are refused.

    Raises `InputError` for whatever is wrong with flags, rows and folders, and `KeyboardInterrupt` after Ctrl-C, when
    a checkpoint has been left.
    """
    if isinstance(data, str | PurePath):
        flags, data = flags | {"data": data}, None
    settings, memory = _settings(data or {}, task_file, resume, flags)
    held: AbstractContextManager[Path | None]
    if resume is None:
        held = own_folder(settings)
    else:
        check_begun(Path(resume))
        held = claimed(Path(resume))
    with held as made:
        folder = made or Path(str(resume))
        pipeline = prepare(folder, settings, writing=True, memory=memory)
        code = conduct(pipeline, ["compt_fast.fit"], Console(markup=False, quiet=not progress))
    if code >= FIRST_SIGNAL:
        raise KeyboardInterrupt(f"go on with compt_fast.fit(..., resume={str(folder)!r})")
    return Fitted(folder, pipeline.stage_two.trainer.ended, pipeline.stage_two.job.trunk)


def _settings(
    data: Mapping[str, Mapping[str, Any]], task_file: Any, resume: str | Path | None, flags: Mapping[str, Any]
) -> tuple[JobSettings, InMemory | None]:
    """The settings of the job, checked as those of a configuration file, and its rows and tasks that stand in none."""
    given = check_settings({key: _plain(value) for key, value in flags.items()}, "fit")
    files, defined = _definitions(task_file, data)
    if files:
        given["task_file"] = files
    before: dict[str, Any] = {}
    if resume is not None:
        if given.get("out") is not None:
            raise InputError("fit: resume takes the run folder and every other setting from there: leave out out")
        check_begun(Path(resume))
        before = read_config(Path(resume) / "config.json")
    elif data and not (given.get("suite") or given.get("tasks")):
        given["tasks"] = list(data)
    settings = merge_flags({}, before | {key: value for key, value in given.items() if value is not None}, "fit")
    rows = {name: _splits(name, splits) for name, splits in data.items()}
    for name in rows:
        if name not in TASKS and name not in [task.name for task in defined]:
            raise InputError(f"data: {unknown('task', name, TASKS)} Define one of your own by task_file.")
    digests = {name: _digest(splits) for name, splits in rows.items()}
    return settings, InMemory(rows, defined, digests) if rows else None


def _plain(value: Any) -> Any:
    """A value as a configuration file has it: paths as text, whatever holds several values as a list."""
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value  # a number of NumPy's


def _definitions(task_file: Any, data: Mapping[str, Any]) -> tuple[list[str], list[Task]]:
    """Of the tasks that are the user's own the files that say where their rows are, and the tasks whose rows are in
    memory.
    """
    files, defined = [], []
    for item in [task_file] if isinstance(task_file, str | PurePath | Mapping) else task_file:
        where = "task_file" if isinstance(item, Mapping) else str(item)
        entries = item if isinstance(item, Mapping) else read_document(Path(item))
        if not isinstance(entries, Mapping):
            raise InputError(f"{where}: a task file holds keys and values (name: ..., fields: ...)")
        if not isinstance(item, Mapping) and entries.get("name") not in data:
            files.append(str(item))
            continue
        if entries.get("name") in TASKS:
            raise InputError(f"{where}: name: {entries['name']!r} is a built-in task; choose another")
        if entries.get("name") not in data:
            raise InputError(f"{where}: name: {shown(entries.get('name'))} has no rows in data")
        defined.append(defined_task({key: _listed(value) for key, value in entries.items() if key != "data"}, where))
    return files, defined


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _splits(task: str, splits: Any) -> tuple[Columns, Columns]:
    """The rows of a task to train on, and those to be scored on."""
    where = f"data: {task}"
    known = ("train", *EVALUATION)
    if not isinstance(splits, Mapping):
        raise InputError(f"{where}: rows by split are needed, {{'train': ..., 'validation': ...}}, not {shown(splits)}")
    for name in splits:
        if name not in known:
            raise InputError(f"{where}: {unknown('split', str(name), known)}")
    scored = [name for name in EVALUATION if name in splits]
    if "train" not in splits or len(scored) != 1:
        raise InputError(f"{where}: needs the splits train and validation (or test); there are {', '.join(splits)}")
    train, evaluation = (_columns(splits[name], f"{where}: {name}") for name in ("train", scored[0]))
    return train, evaluation


def _columns(rows: Any, where: str) -> Columns:
    """Rows in memory by column; what a row lacks is None."""
    each = list(rows_of([rows] if isinstance(rows, Mapping) else rows))
    for number, row in enumerate(each, start=1):
        if not isinstance(row, Mapping):
            raise InputError(f"{where}: row {number}: a row is a mapping from column to text, not {shown(row)}")
    if not each:
        raise InputError(f"{where}: no rows")
    names = dict.fromkeys(str(name) for row in each for name in row)
    check_header(where, names)
    return Columns(
        {n: [row.get(n) for row in each] for n in names}, lambda k: f"{where}: row {k + 1}", where, len(each)
    )


def _digest(splits: tuple[Columns, Columns]) -> str:
    """The hash of a task's rows, in hexadecimal."""
    digest = hashlib.sha256()
    for columns in splits:
        for name, values in sorted(columns.values.items()):
            digest.update(repr((name, list(values))).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
