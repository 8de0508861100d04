"""The one table of tasks and suites (section 3.1 of ComPT, arXiv 2408.13227, and of CrossPT, arXiv
2509.14253). The names of fields and labels are ours where the papers do not print them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal

from compt_fast.utils.errors import InputError, unknown

METRICS = ("accuracy", "f1", "matthews", "spearman", "pearson")
SCORE_METRICS = ("spearman", "pearson")


@dataclass(frozen=True)
class Task:
    """What a task is: its rows, its text, the names of its labels, its metrics.

    A task with no `labels` is a score: a number between the ends of `score_range`, written in steps
    of `step`. A task with `thresholds` has numbers in its data, and class `i` are those from
    threshold `i - 1` on and below threshold `i`.
    """

    name: str
    prefix: str  # the name that stands in the text
    fields: tuple[tuple[str, str], ...]  # (column of the data, name in the text), in text order
    labels: tuple[str, ...]  # natural label words by class id
    metrics: tuple[str, ...]  # the primary one first
    letter: str = ""  # of the synthetic labels
    source: Literal["hub", "mini", "file"] = "hub"
    dataset: str = ""  # id on the hub
    config: str | None = None
    path: Path | None = None  # of a user's rows: a folder of splits, or one file
    train_split: str = "train"
    eval_split: str = "validation"
    label_column: str = "label"
    label_values: tuple[str, ...] = ()  # what the data write for `labels`, where it differs
    thresholds: tuple[float, ...] = ()
    score_range: tuple[float, float] = (0.0, 5.0)
    step: float = 0.2

    @property
    def is_score(self) -> bool:
        """Whether a label is a number to be approached, not a class to be hit."""
        return not self.labels

    @property
    def primary(self) -> str:
        """The metric that counts in averages."""
        return self.metrics[0]


_Fields = tuple[tuple[str, str], ...]
_ONE = (("sentence", "sentence1"),)
_PAIR = (("sentence1", "sentence1"), ("sentence2", "sentence2"))
_QUESTIONS = (("question1", "sentence1"), ("question2", "sentence2"))
_QNLI = (("question", "sentence1"), ("sentence", "sentence2"))
_MNLI = (("premise", "sentence1"), ("hypothesis", "sentence2"))
_NLI = (("premise", "premise"), ("hypothesis", "hypothesis"))
_TEXT = (("text", "sentence"),)

_THREE_WAY = ("entailment", "neutral", "contradiction")
_TWO_WAY = ("entailment", "not_entailment")
_POLARITY = ("negative", "positive")
_EQUIVALENT = ("not_equivalent", "equivalent")
_DUPLICATE = ("not_duplicate", "duplicate")

_GLUE = "nyu-mll/glue"
_PAWS = "google-research-datasets/paws"


def _hub(
    name: str,
    place: tuple[str, str, str],
    fields: _Fields,
    labels: tuple[str, ...],
    *metrics: str,
    **more: Any,
) -> Task:
    """A task of the hub; `place` is (data set, configuration, evaluation split).

    The evaluation split is the test split where its labels are public, otherwise the validation
    split (CrossPT, section 3.2).
    """
    dataset, config, split = place
    return Task(
        name=name,
        prefix=name,
        fields=fields,
        labels=labels,
        metrics=metrics or ("accuracy",),
        dataset=dataset,
        config=config,
        eval_split=split,
        **more,
    )


def _glue(name: str, fields: _Fields, labels: tuple[str, ...], *metrics: str) -> Task:
    return _hub(name, (_GLUE, name, "validation"), fields, labels, *metrics)


_HUB = (
    _glue("cola", _ONE, ("unacceptable", "acceptable"), "accuracy", "matthews"),
    _hub("mnli", (_GLUE, "mnli", "validation_matched"), _MNLI, _THREE_WAY),
    _glue("mrpc", _PAIR, _EQUIVALENT, "accuracy", "f1"),
    _glue("qnli", _QNLI, _TWO_WAY),
    _glue("qqp", _QUESTIONS, _DUPLICATE, "accuracy", "f1"),
    _glue("rte", _PAIR, _TWO_WAY),
    _glue("sst2", _ONE, _POLARITY),
    _glue("stsb", _PAIR, (), "spearman", "pearson"),
    _hub("imdb", ("stanfordnlp/imdb", "plain_text", "test"), _TEXT, _POLARITY),
    _hub("multinli", ("nyu-mll/multi_nli", "default", "validation_matched"), _NLI, _THREE_WAY),
    _hub("paws", (_PAWS, "labeled_final", "test"), _PAIR, _EQUIVALENT),
    _hub(
        "scitail",
        ("allenai/scitail", "tsv_format", "test"),
        _NLI,
        ("entailment", "neutral"),
        label_values=("entails", "neutral"),
    ),
    _hub("yelp_polarity", ("fancyzhx/yelp_polarity", "plain_text", "test"), _TEXT, _POLARITY),
    # STS-B in three classes (CrossPT, section 3.1); its thresholds are unpublished: these are ours.
    _hub(
        "stsb2",
        (_GLUE, "stsb", "validation"),
        _PAIR,
        ("low", "medium", "high"),
        thresholds=(2.0, 4.0),
    ),
)


def _mini(task: Task) -> Task:
    """The embedded task of the same kind: the same text and labels, other rows."""
    fields = tuple((f"sentence{k}", name) for k, (_, name) in enumerate(task.fields, start=1))
    return replace(
        task,
        name=f"mini_{task.name}",
        fields=fields,
        source="mini",
        dataset="",
        config=None,
        eval_split="validation",
        label_values=(),
    )


def _build_table() -> dict[str, Task]:
    hub = [replace(task, letter=ascii_uppercase[k]) for k, task in enumerate(_HUB)]
    mini = [_mini(task) for task in hub if not task.thresholds]
    return {task.name: task for task in hub + mini}


TASKS: dict[str, Task] = _build_table()

_GLUE_SUITE = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")
_SET2_SUITE = ("imdb", "mrpc", "multinli", "paws", "scitail", "yelp_polarity")
SUITES: dict[str, tuple[str, ...]] = {
    "mini": tuple(f"mini_{name}" for name in _GLUE_SUITE),
    "mini2": tuple(f"mini_{name}" for name in _SET2_SUITE),
    "glue": _GLUE_SUITE,
    "set2": _SET2_SUITE,
    "crosspt-set2": (*_SET2_SUITE, "stsb2"),
}
DEFAULT_SUITE = "mini"


def resolve_tasks(
    suite: str | None,
    tasks: list[str] | None,
    include: list[str],
    exclude: list[str],
    task_files: list[Path],
) -> list[Task]:
    """The tasks that flags name: of the suite or list, then of task files, then included ones.

    A task file's task takes part once its file is given; naming it in `tasks` only gives it a place
    in the order. With neither a suite nor a list, the tasks are those of the files, or of the suite
    `mini` where there is no file either. Raises `InputError` for an unknown, doubled or clashing
    name, and where no task is left.
    """
    own = _own_tasks(task_files)
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


def _own_tasks(task_files: list[Path]) -> dict[str, Task]:
    """The tasks of the user's files by name, each with a letter that no other task has."""
    from compt_fast.tasks.user import load_task_file  # that module needs `Task`

    used = {task.letter for task in TASKS.values()}
    pairs = map("".join, product(ascii_uppercase, repeat=2))
    free = (letter for letter in chain(ascii_uppercase, pairs) if letter not in used)
    own: dict[str, Task] = {}
    for path in task_files:
        task = load_task_file(path)
        if task.name in own:
            raise InputError(f"{path}: a task named {task.name!r} stands in another task file too; rename one")
        own[task.name] = replace(task, letter=next(free))
    return own
