"""Runs that answered nothing that a task knows: said, so that a score of 0 is no riddle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from compt_fast.tasks.metrics import is_answer
from compt_fast.tasks.table import Task
from compt_fast.training.plan import Run
from compt_fast.training.results import RunResult
from compt_fast.utils.words import plural

MOST_LINES = 8
MOST_STRINGS = 3
RANK = "--scoring rank takes the most likely of the labels instead of generating text (train and evaluate have it)"
HIGHER = (
    "--lr sets the rate of {}, which may be too low: the usual ones are for thousands of steps "
    "(docs/baselines.md, Which rate)"
)
WRITTEN = 40  # characters of a string


def off_label_notes(results: Iterable[RunResult], runs: Sequence[Run], tasks: Sequence[Task]) -> list[str]:
    """A line for each run and task of which no answer is a label (or, for scores, a number), with the most frequent
    strings; of many the first few, and what to do.
    """
    planned = {run.id: run for run in runs}
    named = {task.name: task for task in tasks}
    found: list[str] = []
    tuned: dict[str, None] = {}  # the methods among them whose rate is --lr
    for result in results:
        run = planned[result.id]
        for name, entry in result.tasks.items():
            if said := _off_label(named[name], entry["predictions"], run.config.label_mode):
                found.append(f"{result.id}, {name}: {said}")
                tuned |= {run.config.method: None} if run.alone else {}
    if not found:
        return []
    more = [f"and {plural(len(found) - MOST_LINES, 'more line')} like these"] if len(found) > MOST_LINES else []
    return [*found[:MOST_LINES], *more, *([HIGHER.format(", ".join(tuned))] if tuned else []), RANK]


def _off_label(task: Task, predictions: dict[str, dict[str, int]], mode: str) -> str:
    """What was answered, if none of it is an answer to the task; else nothing."""
    counts = sum((Counter(answers) for answers in predictions.values()), Counter[str]())
    if not counts or any(is_answer(task, text, mode) for text in counts):
        return ""
    often = [f"{_shown(text)} ({count})" for text, count in counts.most_common(MOST_STRINGS)]
    others = [f"{plural(len(counts) - MOST_STRINGS, 'other string')}"] if len(counts) > MOST_STRINGS else []
    what = "number" if task.is_score else "label"
    return f"none of {plural(counts.total(), 'answer')} is a {what}: {', '.join([*often, *others])}"


def _shown(text: str) -> str:
    """A string in quotation marks, on one line, and not at any length."""
    return repr(text if len(text) <= WRITTEN else text[:WRITTEN] + "…")
