"""The results of a run folder, read back and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compt_fast.runs.job import recorded_identity
from compt_fast.training.results import RunResult
from compt_fast.utils.errors import InputError
from compt_fast.utils.inputs import check_type, dataclass_from, read_object
from compt_fast.utils.names import check_name


def read_results(folder: Path) -> list[RunResult]:
    """The runs of a folder's `results.json`.

    Raises `InputError` when it is missing, damaged, or of another job than the `config.json` beside it.
    """
    path = folder / "results.json"
    content = read_object(path, "the results of a run folder")
    check_type(content.get("runs"), list, f"{path}: runs")
    results = []
    for number, entry in enumerate(content["runs"], start=1):
        result = dataclass_from(RunResult, entry, f"{path}: run {number}")
        check_scores(result.tasks, f"{path}: {result.id}")
        if result.status == "finished" and (result.average is None or not result.tasks):
            raise InputError(f"{path}: {result.id}: a finished run has tasks and their average")
        results.append(result)
    _check_job(path, content.get("job"), [check_name(result.id, f"a run, in {path}") for result in results])
    return results


def _check_job(path: Path, job: Any, names: list[str]) -> None:
    """Raise `InputError` unless results of the runs `names` are those of the job whose `config.json` is beside them."""
    if job is None or not (path.parent / "config.json").is_file():
        return
    try:
        own = recorded_identity(path.parent).hash(names)
    except KeyError:
        own = None
    if own != job:
        raise InputError(
            f"{path}: the results of another job, or of runs with other settings, than {path.parent / 'config.json'} "
            f"says; put back its own, or let --resume {path.parent} write them anew"
        )


def check_scores(tasks: Any, where: str) -> None:
    """Raise `InputError` that begins with `where` unless `tasks` are such as `evaluator.scored` returns."""
    check_type(tasks, dict, f"{where}: tasks")
    for name, task in tasks.items():
        own = f"{where}: {name}"
        check_type(task, dict, own)
        for key, kind in {"primary": str, "scores": dict, "n": int, "predictions": dict}.items():
            check_type(task.get(key), kind, f"{own}: {key}")
        for metric in (task["primary"], *task["scores"]):
            check_type(task["scores"].get(metric), float, f"{own}: scores: {metric}")
        for gold, counts in task["predictions"].items():
            check_type(counts, dict, f"{own}: predictions: {gold}")
            for text, count in counts.items():
                check_type(count, int, f"{own}: predictions: {gold}: {text}")
