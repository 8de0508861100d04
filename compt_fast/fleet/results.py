"""What came of a job: `results.json`, and the table of methods and tasks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from rich.table import Table

from compt_fast.errors import InputError
from compt_fast.files import write_json, write_text
from compt_fast.fleet.job import recorded_identity
from compt_fast.fleet.plan import Run
from compt_fast.info import environment
from compt_fast.inputs import check_type, dataclass_from, read_object
from compt_fast.names import check_name

FORMAT = 1


@dataclass
class RunResult:
    """A run's entry in `results.json`; scores are percentages.

    `development` is what the reported prompts scored on the development sample, where they were
    chosen by it: `average`, `step` (after how many steps) and `tasks`, each task's scores.
    """

    id: str
    method: str
    sources: int
    shots: int | None
    seed: int
    status: str
    tasks: dict[str, Any] = field(default_factory=dict)
    average: float | None = None
    reason: str = ""
    development: dict[str, Any] | None = None

    @classmethod
    def waiting(cls, run: Run) -> Self:
        """A run that has not ended."""
        return cls._of(run, "unfinished")

    @classmethod
    def finished(
        cls, run: Run, tasks: dict[str, Any], average: float, development: dict[str, Any] | None = None
    ) -> Self:
        """A run trained and scored."""
        return cls._of(run, "finished", tasks=tasks, average=average, development=development)

    @classmethod
    def stopped(cls, run: Run, reason: str) -> Self:
        """A run whose loss or gradient was not finite."""
        return cls._of(run, "stopped", reason=reason)

    @property
    def says(self) -> str:
        """What came of it, in a line."""
        return f"{self.id}: " + (
            f"average {self.average:.1f}" if self.average is not None else f"{self.status}, {self.reason}"
        )

    @classmethod
    def _of(cls, run: Run, status: str, **outcome: Any) -> Self:
        config = run.config
        return cls(run.id, config.method, config.sources, config.shots, config.seed, status, **outcome)

    def to_json(self) -> dict[str, Any]:
        """The entry as plain JSON values."""
        entry = asdict(self)
        if not self.reason:
            del entry["reason"]
        if self.development is None:
            del entry["development"]
        return entry

    @property
    def group(self) -> str:
        """The id without the seed and without the one task of a run trained apart: the runs that make
        a row of the table.
        """
        name = self.id.replace(f"-s{self.seed}", "", 1)
        return name.removesuffix(f"-{next(iter(self.tasks))}") if len(self.tasks) == 1 else name


def results_json(results: list[RunResult], wall_seconds: float, job: str | None = None) -> dict[str, Any]:
    """The content of `results.json`; `job` is the hash of the job whose runs these are."""
    return {
        "format": FORMAT,
        **({} if job is None else {"job": job}),
        "environment": environment(),
        "wall_seconds": round(wall_seconds, 1),
        "runs": [result.to_json() for result in results],
    }


def write_results(folder: Path, results: list[RunResult], wall_seconds: float, job: str | None = None) -> None:
    """Write `results.json` and, beside it, the table as `results.md`."""
    write_json(folder / "results.json", results_json(results, wall_seconds, job))
    write_text(folder / "results.md", markdown(results))


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
    """Raise `InputError` that begins with `where` unless `tasks` are such as `evaluate` returns."""
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


def glue_score(scores: dict[str, float]) -> float:
    """A task's score as GLUE counts it: Matthews where it is reported, else the mean of what is."""
    return scores["matthews"] if "matthews" in scores else statistics.fmean(scores.values())


def table_rows(results: list[RunResult]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of the table: a row a method and setting, mean and deviation over its seeds.

    Runs trained apart, a task each, share the row of their setting; an average over tasks needs all.
    Two averages stand apart: `paper` is the mean of the primary scores, as both papers average
    (accuracy for CoLA); `GLUE` takes Matthews for CoLA and the mean where a task reports two.
    """
    finished = [result for result in results if result.status == "finished"]
    if not finished:
        return ["run", "seeds"], []
    names = {name: task["primary"] for result in finished for name, task in result.tasks.items()}
    heads = ["run", "seeds", *(f"{name} ({metric})" for name, metric in names.items())]
    groups: dict[str, dict[int, dict[str, Any]]] = {}  # by setting and seed: the entry of each task
    for result in finished:
        groups.setdefault(result.group, {}).setdefault(result.seed, {}).update(result.tasks)
    rows = []
    for name, seeds in groups.items():
        columns = zip(*(_numbers(tasks, list(names)) for tasks in seeds.values()), strict=True)
        cells = ([value for value in column if value is not None] for column in columns)
        rows.append([name, str(len(seeds)), *map(_cell, cells)])
    return [*heads, "average (paper)", "average (GLUE)"], rows


def _numbers(tasks: dict[str, Any], names: Sequence[str]) -> list[float | None]:
    """A row of the table for one seed: the primary score of each task, then both averages."""
    primary = {name: task["scores"][task["primary"]] for name, task in tasks.items()}
    both: list[float | None] = [None, None]
    if len(tasks) == len(names):
        both = [statistics.fmean(primary.values()), statistics.fmean(glue_score(t["scores"]) for t in tasks.values())]
    return [*map(primary.get, names), *both]


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def markdown(results: list[RunResult]) -> str:
    """The table as Markdown, with a line for each run that has no scores."""
    heads, rows = table_rows(results)
    lines = ["| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(lines + _missing(results)) + "\n"


def terminal_table(results: list[RunResult]) -> Table:
    """The table for a terminal."""
    heads, rows = table_rows(results)
    missing = "\n".join(_missing(results)).strip()
    table = Table(caption="percent; mean ± standard deviation over seeds" + (f"\n{missing}" if missing else ""))
    for head in heads:
        table.add_column(head.replace(" (", "\n("), justify="left" if head == "run" else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _missing(results: list[RunResult]) -> list[str]:
    lines = [f"- {r.id}: {r.status} {r.reason}".rstrip() for r in results if r.status != "finished"]
    return ["", *lines] if lines else []
