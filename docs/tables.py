"""Tables of run folders as Markdown: `python docs/tables.py RUN [RUN ...]`, all of one suite.

A row a method and number of shots, with mean and standard deviation over its seeds; then how each method's
average differs from that of the method `--against` (default: pt), paired by seed, with the 95 % interval of
the mean difference (Student's t) and the two-sided p-value of a paired permutation test.

With `--costs` a row a method, the best first: the average with the 95 % interval of its mean (Student's t over the
seeds), trained numbers, and seconds of a job that trains that method alone.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from compt_fast.config.flags import read_flags
from compt_fast.runs.job import open_job
from compt_fast.runs.results import read_results
from compt_fast.training.results import RunResult, glue_score
from compt_fast.utils.inputs import read_object

Key = tuple[str, int | None]  # method and shots
Seeds = dict[int, dict[str, dict[str, float]]]  # by seed and task: the scores


def read(folders: Iterable[Path]) -> tuple[dict[Key, Seeds], dict[str, str]]:
    """Scores by method, shots, seed and task, those of tasks trained apart put together; each task's primary metric."""
    found: dict[Key, Seeds] = {}
    primary: dict[str, str] = {}
    results: list[RunResult] = [result for folder in folders for result in read_results(folder)]
    for result in results:
        for name, task in result.tasks.items():
            primary.setdefault(name, task["primary"])
            found.setdefault((result.method, result.shots), {}).setdefault(result.seed, {})[name] = task["scores"]
    return found, primary


def averages(seeds: Seeds, primary: dict[str, str]) -> dict[int, float]:
    """The mean of the primary scores of all tasks, by seed; a seed that lacks a task has none."""
    whole = {seed: tasks for seed, tasks in seeds.items() if tasks.keys() == primary.keys()}
    return {seed: statistics.fmean(scores[primary[n]] for n, scores in t.items()) for seed, t in whole.items()}


def cell(values: Sequence[float]) -> str:
    """Mean and, of several values, standard deviation."""
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ±{statistics.stdev(values):.1f}" if len(values) > 1 else mean


def table(found: dict[Key, Seeds], primary: dict[str, str]) -> list[str]:
    """The Markdown of the scores: a column a task, then both averages."""
    metrics = {"accuracy": "acc.", "spearman": "Spearman"}
    heads = [f"{name.removeprefix('mini_')}<br>{metrics[metric]}" for name, metric in primary.items()]
    lines = [["run", "seeds", *heads, "**average**<br>paper", "average<br>GLUE"]]
    lines.append(["---"] * len(lines[0]))
    for method, shots in sorted(found, key=lambda key: key[1] or 0):
        seeds = found[method, shots]
        tasks = [[tasks[n][metric] for tasks in seeds.values() if n in tasks] for n, metric in primary.items()]
        glue = [statistics.fmean(map(glue_score, tasks.values())) for tasks in seeds.values()]
        paper = f"**{cell(list(averages(seeds, primary).values()))}**"
        lines.append([f"{method}, {shots} shots", str(len(seeds)), *map(cell, tasks), paper, cell(glue)])
    return ["| " + " | ".join(line) + " |" for line in lines]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of two values or more, by Student's t."""
    mean, error = statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5
    low, high = stats.t.interval(0.95, len(values) - 1, mean, error)
    return float(low), float(high)


def per_task(folder: Path) -> dict[Key, float]:
    """The numbers that each method of a run folder trains, divided by the tasks of a run."""
    job = open_job(read_flags({}, str(folder / "config.json")), folder=folder)
    return {(run.config.method, run.config.shots): run.parameters / run.shape.tasks for run in job.runs}


def costs(folders: Sequence[Path], found: dict[Key, Seeds], primary: dict[str, str]) -> list[str]:
    """The Markdown of averages and what each method trains and takes, the best average first."""
    heads = ["method", "seeds", "average", "95 % interval", "parameters a task", "seconds a seed"]
    lines = [heads, ["---"] * len(heads)]
    numbers = {key: count for folder in folders for key, count in per_task(folder).items()}
    seconds: dict[Key, float] = {}
    for folder in folders:
        keys = {(result.method, result.shots) for result in read_results(folder)}
        if len(keys) == 1:
            seconds[keys.pop()] = read_object(folder / "results.json", "results")["wall_seconds"]
    scores = {key: list(averages(seeds, primary).values()) for key, seeds in found.items()}
    for key, values in sorted(scores.items(), key=lambda item: -statistics.fmean(item[1])):
        bounds = "{:.1f} to {:.1f}".format(*interval(values)) if len(values) > 1 else "-"
        took = f"{seconds[key] / len(found[key]):.0f}" if key in seconds else "-"
        lines.append(
            [f"`{key[0]}`", str(len(values)), f"{statistics.fmean(values):.1f}", bounds, f"{numbers[key]:,.0f}", took]
        )
    return ["| " + " | ".join(line) + " |" for line in lines]


def differences(found: dict[Key, Seeds], primary: dict[str, str], against: str) -> list[str]:
    """The Markdown of paired differences of averages."""
    lines = [f"| minus {against} | shots | seeds | difference | 95 % interval | p |", "|---|---|---|---|---|---|"]
    for method, shots in sorted(found, key=lambda key: key[1] or 0):
        if method == against or (against, shots) not in found:
            continue
        mine, theirs = (averages(found[name, shots], primary) for name in (method, against))
        pairs = np.array([mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())])
        if len(pairs) < 2:
            continue
        low, high = interval(pairs)
        test = stats.permutation_test((pairs,), np.mean, permutation_type="samples", n_resamples=np.inf)
        numbers = (f"{pairs.mean():+.1f}", f"{low:+.1f} to {high:+.1f}", f"{test.pvalue:.3f}")
        lines.append(f"| {method} | {shots} | {len(pairs)} | " + " | ".join(numbers) + " |")
    return lines


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", metavar="RUN", type=Path, nargs="+")
    parser.add_argument("--against", default="pt", metavar="METHOD")
    parser.add_argument("--costs", action="store_true", help="averages, parameters and seconds in place of all tasks")
    given = parser.parse_args()
    found, primary = read(given.folders)
    first = costs(given.folders, found, primary) if given.costs else table(found, primary)
    print("\n".join([*first, "", *differences(found, primary, given.against)]))


if __name__ == "__main__":
    main()
