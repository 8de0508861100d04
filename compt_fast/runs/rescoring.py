"""The stored prompts of a run folder scored again, and held against what its `results.json` says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compt_fast.evaluation.evaluator import average, scored
from compt_fast.evaluation.predictions import Record, records
from compt_fast.runs.answers import off_label_notes
from compt_fast.runs.folder import check_run_folder
from compt_fast.runs.loaded import LoadedJob, load_job, stored_runs
from compt_fast.runs.results import read_results
from compt_fast.training.results import RunResult
from compt_fast.utils.errors import InputError
from compt_fast.utils.words import listed


@dataclass(frozen=True)
class Rescored:
    """What the runs score, a record of each prediction, and `notes` on answers that are no labels.

    `unscored` are the tasks without rows, `changed` the finished runs whose numbers are others than in `results.json`.
    """

    results: list[RunResult]
    records: list[Record]
    notes: list[str]
    unscored: list[str]
    changed: list[str]


def open_stored(folder: Path, only: list[str] | None, given: dict[str, Any]) -> tuple[LoadedJob, list[str]]:
    """The job of a run folder under the flags `given` (texts by key, or None), and those of its runs with stored
    prompts, or of the runs `only`, that have rows to be scored on.

    What is cheap to check is checked first. Raises `InputError` for whatever is wrong, and where there is no such run.
    """
    check_run_folder(folder)
    names = stored_runs(folder, only)
    loaded = load_job(folder, given)
    with_rows = [name for name in names if any(of.golds for of in loaded.rows(name))]
    if not with_rows:
        raise InputError(f"--data {given['data']}: there are rows of no task of {', '.join(names)}")
    return loaded, with_rows


def left_out(loaded: LoadedJob) -> list[str]:
    """A line where a job has runs that train weights and leave no prompts, which are not scored again."""
    names = [run.id for run in loaded.job.runs if run.alone]
    if not names:
        return []
    shown = names if len(names) < 5 else [*names[:3], f"{len(names) - 3} more"]
    return [
        f"not scored again: {listed(shown)}, as no prompts come of training weights; their scores are those of "
        f"{loaded.folder}/results.json (report compares them), and others take a training of their own, with --method "
        "and another --out"
    ]


def rescore(loaded: LoadedJob, names: Iterable[str]) -> Rescored:
    """Score the stored prompts of some runs, as whole prompts."""
    # the development scores, by which a run's prompts were chosen, are the training's alone
    recorded = {result.id: replace(result, development=None) for result in read_results(loaded.folder)}
    job = loaded.job
    results: list[RunResult] = []
    rows: list[Record] = []
    names = list(names)
    for name, (asked, predicted) in zip(names, loaded.predict((name, None) for name in names), strict=True):
        rows += records(name, job.data, asked.sets, predicted, asked.mode)
        tasks = scored(asked.sets, predicted, asked.mode)
        results.append(RunResult.finished(loaded.run(name), tasks, average(tasks)))
    ended = [result for result in results if result.id not in recorded or recorded[result.id].status == "finished"]
    return Rescored(
        results,
        rows,
        off_label_notes(results, job.runs, [data.task for data in job.data.tasks]),
        [of.task.name for of in loaded.sets if not of.golds],
        [result.id for result in ended if result != recorded.get(result.id)],
    )
