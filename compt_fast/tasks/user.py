"""A user's own task, described in a short TOML or YAML file, and a task's definition in the same words.

    name = "asked"
    fields = ["question", "passage"]  # or {question = "sentence1", ...}: column = name in the text
    labels = ["no", "yes"]            # by class id; or score = {low = 0, high = 5, step = 0.2}
    metric = ["accuracy", "f1"]       # one or several, the primary one first
    data = "asked"                    # a folder or file beside this one; or dataset = "org/asked"

A folder holds `train` and `validation` (or `test`) files; of a single file a fifth of the rows is
set aside for evaluation. Further keys: `prefix` (the name in the text), `label_column`,
`label_values` (the labels as the data write them), `thresholds` (numbers in the data become
classes; `score` gives their range), `group` (the column of what rows belong to, such as a question with
several answers: its rows are scored together, and the metric "em" counts the groups that are right in every
row), and for a data set of the hub `config`, `train_split` and `eval_split`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compt_fast.tasks.readings import READINGS
from compt_fast.tasks.table import MAKERS, METRICS, SCORE_METRICS, TASKS, Task
from compt_fast.utils.errors import InputError, shown, unknown
from compt_fast.utils.inputs import check_path, read_document
from compt_fast.utils.names import check_name

_HUB_KEYS = ("config", "train_split", "eval_split")
_LONGEST = 1000  # characters of a name, word or path
_MOST_STEPS = 10_000  # of a score's grid, each of which is a label text
_KEYS = (
    *("name", "fields", "labels", "score", "metric", "data", "dataset"),
    *("prefix", "label_column", "label_values", "thresholds", "group"),
    *_HUB_KEYS,
)


def load_task_file(path: Path) -> Task:
    """The task that a `.toml`, `.yaml` or `.yml` file describes. Raises `InputError` naming the
    file and the key."""
    reader = _Reader(str(path), _read(path), _KEYS)
    if reader.name() in TASKS:
        raise reader.error("name", f"{reader.name()!r} is a built-in task; choose another")
    return reader.task(**reader.place(path.parent))


def definition(task: Task) -> dict[str, Any]:
    """A task as JSON values in the words of a task file, with its letter, but not where a user's rows are."""
    low, high = task.score_range
    numbers = {"low": low, "high": high, "step": task.step}
    entries: dict[str, Any] = {
        "name": task.name,
        "prefix": task.prefix,
        "letter": task.letter,
        "fields": dict(task.fields),
        "labels": list(task.labels),
        "score": numbers if task.is_score or task.thresholds else {},
        "thresholds": list(task.thresholds),
        "metric": list(task.metrics),
        "label_column": task.label_column,
        "label_values": list(task.label_values),
        "group": task.group,
        "reading": task.reading,
        "dataset": task.dataset,
    }
    splits = {key: getattr(task, key) for key in _HUB_KEYS} if task.dataset else {}
    return {key: value for key, value in (entries | splits).items() if value}


def defined_task(entries: dict[str, Any], where: str) -> Task:
    """The task of a `definition`. Raises `InputError` that begins with `where` and names the key."""
    reader = _Reader(where, entries, (*(key for key in _KEYS if key != "data"), "letter", "reading"))
    place = reader.hub() if "dataset" in entries else {"origin": "mini" if reader.name() in MAKERS else "file"}
    return reader.task(letter=reader.text("letter"), reading=reader.reading(), **place)


def _read(path: Path) -> dict[str, Any]:
    if path.suffix not in (".toml", ".yaml", ".yml"):
        raise InputError(f"{path}: a task file must end in .toml, .yaml or .yml")
    entries = read_document(path)
    if not isinstance(entries, dict):
        raise InputError(f"{path}: a task file must hold keys and values (name: ..., fields: ...)")
    return entries


class _Reader:
    """The entries of one task, from `where`, each checked as it is read."""

    def __init__(self, where: str, entries: dict[str, Any], keys: Sequence[str]) -> None:
        for key in entries:
            if key not in keys:
                raise InputError(f"{where}: {unknown('key', str(key), keys)}")
        self.where = where
        self.entries = entries

    def error(self, key: str, problem: str) -> InputError:
        return InputError(f"{self.where}: {key}: {problem}")

    def task(self, **place: Any) -> Task:
        """The task, with the fields of `place` as they are given."""
        labels = self.labels()
        score_range, step = self.scale()
        name = self.name()
        return Task(
            name=name,
            prefix=self.text("prefix") or name,
            fields=self.fields(),
            labels=labels,
            metrics=self.metrics(score=not labels),
            label_column=self.text("label_column") or "label",
            label_values=self.label_values(labels),
            thresholds=self.thresholds(labels),
            group=self.text("group"),
            score_range=score_range,
            step=step,
            **place,
        )

    def name(self) -> str:
        """The name, which becomes a part of paths."""
        name = self.text("name", required=True)
        try:
            return check_name(name, "a task")
        except InputError as error:
            raise self.error("name", str(error)) from None

    def text(self, key: str, *, required: bool = False) -> str:
        """A non-empty string, or "" where the key is absent."""
        if key not in self.entries:
            if required:
                raise self.error(key, "missing")
            return ""
        return self._text(key, self.entries[key])

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of different non-empty strings, or () where the key is absent."""
        if key not in self.entries:
            return ()
        values = self.entries[key]
        if not isinstance(values, list) or not values:
            raise self.error(key, f"must be a list of texts, not {shown(values)}")
        texts = tuple(self._text(key, value) for value in values)
        twice, count = Counter(texts).most_common(1)[0]
        if count > 1:
            raise self.error(key, f"{twice!r} stands there twice")
        return texts

    def _text(self, key: str, value: Any) -> str:
        if isinstance(value, bool):
            raise self.error(
                key,
                f"{value} is a truth value (YAML reads yes, no, on, off so); put quotes around it",
            )
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, f"{shown(value)} must be a text that is not empty (in quotes)")
        text = value.strip()
        if len(text) > _LONGEST or not text.isprintable():
            raise self.error(key, f"{shown(text)} must be up to {_LONGEST} printable characters on one line")
        return text

    def fields(self) -> tuple[tuple[str, str], ...]:
        """(column, name in the text) pairs from a list of columns or a table column = name."""
        value = self.entries.get("fields")
        if isinstance(value, dict) and value:
            return tuple((self._text("fields", column), self._text("fields", name)) for column, name in value.items())
        columns = self.texts("fields")
        if not columns:
            raise self.error("fields", "missing; name the columns that hold the texts")
        return tuple((column, column) for column in columns)

    def labels(self) -> tuple[str, ...]:
        """The label words; () for a score. Numbers in classes need thresholds and their range."""
        labels = self.texts("labels")
        if len(labels) == 1:
            raise self.error("labels", "one class leaves nothing to predict; name at least two")
        if not labels and ("score" not in self.entries or "thresholds" in self.entries):
            raise self.error("labels", "missing; name the classes (or give score for numbers)")
        if labels and ("score" in self.entries) != ("thresholds" in self.entries):
            raise self.error("labels", "with labels, score and thresholds go together")
        return labels

    def metrics(self, *, score: bool) -> tuple[str, ...]:
        """The metrics of the key, or accuracy for classes, Spearman and Pearson for a score."""
        if "metric" not in self.entries:
            return SCORE_METRICS if score else ("accuracy",)
        fitting = [metric for metric in METRICS if (metric in SCORE_METRICS) == score]
        value = self.entries["metric"]
        metrics = (self._text("metric", value),) if isinstance(value, str) else self.texts("metric")
        for metric in metrics:
            if metric not in fitting:
                kind = "metric of a score" if score else "metric of classes"
                raise InputError(f"{self.where}: {unknown(kind, metric, fitting)}")
        if "em" in metrics and not self.text("group"):
            raise self.error("metric", "'em' counts groups that are right in every row; name their column with group")
        return metrics

    def reading(self) -> str:
        """The name of a reading, or "" where the key is absent."""
        name = self.text("reading")
        if name and name not in READINGS:
            raise InputError(f"{self.where}: {unknown('reading', name, READINGS)}")
        return name

    def scale(self) -> tuple[tuple[float, float], float]:
        """((low, high), step) of the numbers in the data."""
        value = self.entries.get("score", {})
        keys = ("low", "high", "step")
        if not isinstance(value, dict) or not set(value) <= set(keys):
            raise self.error(
                "score",
                "must be a table of low, high and step, such as {low = 0, high = 5, step = 0.2}",
            )
        low, high, step = (
            self._number("score", value.get(key, default)) for key, default in zip(keys, (0, 5, 0.2), strict=True)
        )
        steps = (high - low) / step if step > 0 else 0.0
        if steps > _MOST_STEPS:
            raise self.error(
                "score", f"from {low:g} to {high:g} in steps of {step:g} makes more than {_MOST_STEPS:,} numbers"
            )
        if steps < 1 or abs(steps - round(steps)) > 1e-6:
            raise self.error("score", f"from {low:g} to {high:g} there is no whole number of steps of {step:g}")
        return (low, high), step

    def thresholds(self, labels: tuple[str, ...]) -> tuple[float, ...]:
        """Rising numbers, one fewer than there are classes, or () where the key is absent."""
        if "thresholds" not in self.entries:
            return ()
        values = self.entries["thresholds"]
        if not isinstance(values, list):
            raise self.error("thresholds", f"must be a list of numbers, not {shown(values)}")
        thresholds = tuple(self._number("thresholds", value) for value in values)
        if list(thresholds) != sorted(set(thresholds)):
            raise self.error("thresholds", "must rise")
        if len(thresholds) != len(labels) - 1:
            problem = f"{len(labels)} labels need {len(labels) - 1}, not {len(thresholds)}"
            raise self.error("thresholds", problem)
        return thresholds

    def _number(self, key: str, value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self.error(key, f"{shown(value)} must be a number")
        return float(value)

    def label_values(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        """As many strings as there are labels, or () where the key is absent."""
        values = self.texts("label_values")
        if values and len(values) != len(labels):
            raise self.error("label_values", f"{len(labels)} labels need as many values, not {len(values)}")
        return values

    def place(self, folder: Path) -> dict[str, Any]:
        """Where the rows are: the arguments of `Task` for a file or folder beside the task file in `folder`, or for a
        data set of the hub."""
        if ("data" in self.entries) == ("dataset" in self.entries):
            raise self.error("data", "give either data (a file or folder) or dataset (an id of the hub)")
        if "dataset" in self.entries:
            return self.hub()
        for key in _HUB_KEYS:
            if key in self.entries:
                raise self.error(key, "goes with dataset, not with data")
        check_path(self.text("data"), f"{self.where}: data")
        path = folder / self.text("data")
        if not path.exists():
            raise self.error("data", f"{path} does not exist (it is sought beside the task file)")
        return {"origin": "file", "path": path}

    def hub(self) -> dict[str, Any]:
        """The arguments of `Task` for a data set of the hub."""
        splits = {key: self.text(key) for key in _HUB_KEYS if key in self.entries}
        return {"origin": "hub", "dataset": self.text("dataset"), **splits}
