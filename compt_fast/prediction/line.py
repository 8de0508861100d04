"""What commands that load trained prompts have in common on their lines: where they lie, and over which trunk."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compt_fast.cli.parser import file_path
from compt_fast.config.flags import add_flag, flags_also_of, meaning, parse

if TYPE_CHECKING:
    from compt_fast.prediction.predictor import Predictor
    from compt_fast.tasks.table import Task

COMMAND = "load"
"""What stands for these commands in the `also` of a job's flags."""
_TRAINED = ("model", "dtype")  # which prompts themselves say


def add_prompts(made: ArgumentParser, *, flag: str = "") -> None:
    """Add the places of prompts, by a `flag` that may be repeated or as the line's arguments, and all that goes with
    them.
    """
    places = {"action": "append", "required": True} if flag else {"nargs": "+"}
    made.add_argument(
        flag or "prompts",
        metavar="PATH",
        type=file_path,
        help="a run folder, one run's RUN/prompts/ID, a store, an export or a PEFT adapter; PATH@NAME takes the run of "
        "that name there, or of all but run folders the task" + ("; again for another" if flag else ""),
        **places,
    )
    made.add_argument("--run", metavar="ID", help="of a run folder, the run (or all runs of a method with tasks apart)")
    made.add_argument("--task", metavar="NAME", help="this task's prompt alone; of an adapter, the task that it is of")
    for each in flags_also_of(COMMAND):
        usual = "as trained" if each.key in _TRAINED else each.default
        add_flag(made, each, meaning(each) + (f" (default: {usual})" if usual else ""))


def chosen(line: Namespace) -> dict[str, Any]:
    """The values that a line gives to a job's flags, read and checked, by their keys."""
    given = [(flag, getattr(line, flag.key)) for flag in flags_also_of(COMMAND)]
    return {flag.key: parse(flag.key, text, f"--{flag.name}") for flag, text in given if text is not None}


def tasks_of(line: Namespace) -> list[Task]:
    """The tasks of one's own that a line's task files define."""
    from compt_fast.tasks.user import load_task_file

    return [load_task_file(Path(file)) for file in chosen(line).get("task_file", ())]


def load_prompts_of(line: Namespace, known: Sequence[Task] | None = None) -> Predictor:
    """What answers with the prompts that a line names; `InputError` as of `compt_fast.load`.

    `known` are the tasks of its task files, where they are read already.
    """
    from compt_fast.prediction.predictor import load

    known = tasks_of(line) if known is None else known
    settings = {key: value for key, value in chosen(line).items() if key != "task_file"}
    return load(*line.prompts, run=line.run, task=line.task, task_files=known, **settings)
