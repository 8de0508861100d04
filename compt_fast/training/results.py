"""What came of a job: `results.json`, and the table of methods and tasks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from rich.console import Console

from compt_fast.cli.console import print_table
from compt_fast.config.baselines import BASELINES
from compt_fast.tasks.table import TASKS
from compt_fast.training.plan import Run
from compt_fast.utils.environment import environment
from compt_fast.utils.files import write_json, write_text
from compt_fast.utils.words import plural, short

FORMAT = 1
NAMED = 3  # of the runs that were stopped early, on a terminal; results.md lists all


@dataclass
class RunResult:
    """A run's entry in `results.json`; scores are percentages.

    `development` is what the reported prompts scored on the development sample, where they were
    chosen by it: `average`, `step` (after how many steps) and `tasks`, each task's scores. `step` says after how many
    a run was stopped that can go on from there.
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
    step: int | None = None

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
    def stopped(cls, run: Run, reason: str, step: int | None = None, development: dict[str, Any] | None = None) -> Self:
        """A run that was stopped after `step` steps, or, without them, one whose loss or gradient was not finite."""
        return cls._of(run, "stopped", reason=reason, step=step, development=development)

    @property
    def resumable(self) -> bool:
        """Whether it was stopped, and can go on."""
        return self.status == "stopped" and self.step is not None

    @property
    def outcome(self) -> str:
        """What became of it, in words; nothing of its scores."""
        if self.step is not None:
            when = f"after {plural(self.step, 'step')}" if self.step else "before its first step"
            return f"{self.status} {when}, {self.reason}"
        return f"{self.status} {self.reason}".rstrip()

    @property
    def says(self) -> str:
        """What came of it, in a line."""
        if self.average is not None:
            return f"{self.id}: average {self.average:.1f}"
        return f"{self.id}: " + (self.outcome if self.resumable else f"{self.status}, {self.reason}")

    @classmethod
    def _of(cls, run: Run, status: str, **outcome: Any) -> Self:
        config = run.config
        return cls(run.id, config.method, config.sources, config.shots, config.seed, status, **outcome)

    def to_json(self) -> dict[str, Any]:
        """The entry as plain JSON values."""
        entry = asdict(self)
        if not self.reason:
            del entry["reason"]
        for name in ("development", "step"):
            if entry[name] is None:
                del entry[name]
        return entry

    @property
    def has_prompts(self) -> bool:
        """Whether prompts are what it trains: a baseline has none."""
        return self.method not in BASELINES

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


def glue_score(scores: dict[str, float]) -> float:
    """A task's score as GLUE counts it: Matthews where it is reported, else the mean of what is."""
    return scores["matthews"] if "matthews" in scores else statistics.fmean(scores.values())


@dataclass(frozen=True)
class ScoreTable:
    """Scores of runs as a table: a row a method and setting, its name first; cells of the other columns as text.

    `columns` are (name, what of it): a task and one of its metrics, or an average and how it is taken.
    """

    columns: list[tuple[str, str]]
    rows: list[list[str]]

    def heads(self, between: str = " ") -> list[str]:
        """A head a column, the metric in brackets after the name and what stands `between`."""
        return ["run", *(f"{name}{between}({what})" if what else name for name, what in self.columns)]


def score_table(results: list[RunResult]) -> ScoreTable:
    """The table of the finished runs, with mean and deviation over seeds.

    Every metric of a task has a column, the primary one first. Runs trained apart, a task each,
    share the row of their setting; an average over tasks needs all, and a single task has none. Two
    averages stand apart: `paper` is the mean of the primary scores, as both papers average (accuracy
    for CoLA); `GLUE` takes Matthews for CoLA and the mean where a task reports two. Of a user's own
    tasks there is one, the mean of the primary scores. `development` is the average by which prompts
    were chosen.
    """
    finished = [result for result in results if result.status == "finished"]
    scored = {name: task for result in finished for name, task in result.tasks.items()}
    metrics = [(name, metric) for name, task in scored.items() for metric in _metrics(task)]
    averages = [("average", kind) for kind in (("paper", "GLUE") if scored.keys() & TASKS.keys() else ("",))]
    averages = averages if len(scored) > 1 else []
    developed = [("development", "")] * any(result.development is not None for result in finished)
    groups: dict[str, dict[int, list[RunResult]]] = {}  # by setting and seed
    for result in finished:
        groups.setdefault(result.group, {}).setdefault(result.seed, []).append(result)
    rows = []
    for name, seeds in groups.items():
        lines = [
            [*_scores(parts, metrics), *_averages(parts, len(scored))[: len(averages)], *_development(parts, developed)]
            for parts in seeds.values()
        ]
        cells = ([value for value in column if value is not None] for column in zip(*lines, strict=True))
        rows.append([name, str(len(seeds)), *map(_cell, cells)])
    return ScoreTable([("seeds", ""), *metrics, *averages, *developed], rows)


def _metrics(task: dict[str, Any]) -> list[str]:
    return [task["primary"], *(metric for metric in task["scores"] if metric != task["primary"])]


def _scores(parts: list[RunResult], metrics: Sequence[tuple[str, str]]) -> list[float | None]:
    """The score in each of `metrics` of one seed's runs."""
    tasks = {name: task for part in parts for name, task in part.tasks.items()}
    return [tasks[name]["scores"].get(metric) if name in tasks else None for name, metric in metrics]


def _averages(parts: list[RunResult], tasks: int) -> list[float | None]:
    """Both averages of one seed's runs, if they have all `tasks`."""
    found = [task for part in parts for task in part.tasks.values()]
    if len(found) < tasks:
        return [None, None]
    primary = statistics.fmean(task["scores"][task["primary"]] for task in found)
    return [primary, statistics.fmean(glue_score(task["scores"]) for task in found)]


def _development(parts: list[RunResult], asked: Sequence[object]) -> list[float | None]:
    """The development average of one seed's runs, where it is `asked` for and all have one."""
    found = [part.development["average"] for part in parts if part.development is not None]
    return [statistics.fmean(found) if len(found) == len(parts) else None for _ in asked]


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def markdown(results: list[RunResult]) -> str:
    """The table as Markdown, with a line for each run that has no scores."""
    table = score_table(results)
    heads = table.heads()
    lines = ["| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *table.rows)]
    return "\n".join(lines + _missing(results)) + "\n"


def print_scores(console: Console, results: list[RunResult]) -> None:
    """The table for a terminal, in which embedded tasks stand without their `mini_`, and a line for each run that has
    no scores.
    """
    table = score_table(results)
    names = dict.fromkeys(name for result in results for name in result.tasks)
    shorter = dict(zip(names, short(list(names)), strict=True))
    named = ScoreTable([(shorter.get(name, name), what) for name, what in table.columns], table.rows)
    several = any(row[1] != "1" for row in table.rows)
    says = "percent" + ("; mean ± standard deviation over seeds" if several else "")
    if table.rows:
        print_table(console, named.heads("\n"), named.rows, caption=says)
    early = [result.id for result in results if result.resumable]
    for line in _missing([result for result in results if not result.resumable]):
        console.print(line, soft_wrap=True)
    if early:
        some = ", ".join(early[:NAMED]) + (", ..." if len(early) > NAMED else "")
        console.print(f"{plural(len(early), 'run')} stopped early: {some}", soft_wrap=True)


def _missing(results: list[RunResult]) -> list[str]:
    lines = [f"- {r.id}: {r.outcome}" for r in results if r.status != "finished"]
    return ["", *lines] if lines else []
