"""The results of several jobs in one table, where a paper's table has rows that no single job trains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from compt_fast.config.job import JOB_FLAGS, JobSettings
from compt_fast.runs.results import read_results
from compt_fast.training.results import RunResult, print_scores
from compt_fast.utils.words import listed

Results = dict[str, list[RunResult]]
"""Those of some jobs by the jobs' names."""


def together(jobs: Mapping[str, Sequence[RunResult]]) -> list[Results]:
    """The results of several jobs, a table's at a time: those of jobs that have tasks in common, or each with a third.

    A row (method and setting) of which jobs have different tasks is one. Where two have a task of it, whatever the
    seeds, the row of each carries its job's name and stays its own, as settings that no id names may differ. A job that
    has no task in common with another is in no table.
    """
    found: list[tuple[set[str], set[str]]] = []  # tasks and jobs
    for name, results in jobs.items():
        tasks = {task for result in results for task in result.tasks}
        near = [pair for pair in found if pair[0] & tasks]
        found = [pair for pair in found if pair not in near]
        found.append((tasks.union(*(of for of, _ in near)), {name}.union(*(names for _, names in near))))
    return [
        _told_apart({name: list(jobs[name]) for name in jobs if name in names}) for _, names in found if len(names) > 1
    ]


def _told_apart(jobs: Results) -> Results:
    """The results with ids by which no row has scores of one task from two jobs."""
    cells = Counter(
        cell for results in jobs.values() for cell in {(of.group, task) for of in results for task in of.tasks}
    )
    twice = {row for (row, _), count in cells.items() if count > 1}
    return {
        name: [_called(result, name) if result.group in twice else result for result in results]
        for name, results in jobs.items()
    }


def _called(result: RunResult, job: str) -> RunResult:
    """A result whose row carries the name of its job."""
    task = f"-{next(iter(result.tasks))}" if len(result.tasks) == 1 else ""
    return replace(result, id=f"{result.group}-s{result.seed} ({job}){task}")


def print_together(console: Console, jobs: Mapping[str, JobSettings]) -> None:
    """The tables of several jobs that have ended, each scored on the same rows in the same way, in their `out`."""
    alike: dict[str, Results] = {}
    for name, settings in jobs.items():
        way = [getattr(settings, flag.field) for flag in JOB_FLAGS.values() if flag.report == "panel"]
        alike.setdefault(repr(way), {})[name] = read_results(Path(settings.out or ""))
    for group in alike.values():
        for table in together(group):
            console.print(f"jobs {listed(list(table))} together:", soft_wrap=True)
            print_scores(console, [result for results in table.values() for result in results])
