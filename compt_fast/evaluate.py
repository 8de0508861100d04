"""`python -m compt_fast.evaluate RUN`: score a run folder's stored prompts again."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from compt_fast.errors import InputError, exit_code, unknown
from compt_fast.files import write_json
from compt_fast.flags import FLAGS, add_flag, meaning, read_flags

if TYPE_CHECKING:
    from compt_fast.fleet.data import ScoredRows
    from compt_fast.fleet.job import Job
    from compt_fast.fleet.results import RunResult

OVERRIDES = ("scoring", "eval_size", "eval_batch_size", "data_root", "data", "device", "dtype")


def parser() -> argparse.ArgumentParser:
    """The command line of `evaluate`."""
    made = argparse.ArgumentParser(
        prog="compt-fast evaluate",
        description="Score the stored prompts of a run folder again, without training. With no "
        "flags it repeats the evaluation of the training job and says whether the numbers are the "
        "same.",
        epilog="exit codes: 0 done (with no flags: the same numbers); 1 other numbers than in "
        "results.json; 2 wrong input, or out of memory",
        allow_abbrev=False,
    )
    made.add_argument("folder", metavar="RUN", type=Path, help="run folder of compt_fast.train")
    made.add_argument("--runs", metavar="ID[,ID]", help="only these runs of it (default: all that have prompts)")
    made.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="write the scores there, in the format of results.json",
    )
    for key in OVERRIDES:
        add_flag(made, FLAGS[key], f"{meaning(FLAGS[key])} (default: as in the run folder)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = vars(parser().parse_args(argv))
    folder, runs, out = given.pop("folder"), given.pop("runs"), given.pop("out")
    console = Console(markup=False)  # brackets in names are no markup
    only = runs.split(",") if runs else None
    return exit_code(
        lambda: repeat(folder, only, given, out, console),
        out_of_memory_hint=": lower --eval-batch-size, or take --device cpu",
    )


def repeat(folder: Path, only: list[str] | None, given: dict[str, Any], out: Path | None, console: Console) -> int:
    """Score, print the table, and compare with `results.json` when nothing was changed."""
    from compt_fast.fleet.results import read_results, results_json, terminal_table

    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: no run folder (it has no config.json)")
    began = time.perf_counter()
    recorded = {result.id: result for result in read_results(folder)}
    names = _chosen(folder, list(recorded), only)
    job, trained_on = _open(folder, given)
    sets = job.data.evaluation()
    results = [
        _score(folder / "prompts" / name, job, sets, trained_on)
        for name in track(names, "scoring", console=console, disable=not console.is_terminal)
    ]
    wide = console if console.is_terminal else Console(width=200, markup=False)
    wide.print(terminal_table(results))
    if out is not None:
        try:
            write_json(out, results_json(results, time.perf_counter() - began))
        except OSError as error:
            raise InputError(f"--out {out}: cannot be written ({error.strerror})") from None
    if any(value is not None for value in given.values()):
        return 0
    changed = [result.id for result in results if result != recorded.get(result.id)]
    if changed:
        console.print(f"other numbers than in results.json: {', '.join(changed)}", soft_wrap=True)
        return 1
    console.print("the same numbers as in results.json")
    return 0


def _open(folder: Path, given: dict[str, Any]) -> tuple[Job, str]:
    """The job of a run folder with the flags `given` in place of its own, and the fingerprint that
    the trunk has in the dtype that the prompts were trained with.
    """
    from compt_fast.fleet.job import open_job, trunk_hash

    path = str(folder / "config.json")
    own, flags = read_flags({}, path), read_flags(given, path)
    if given["data"] or given["data_root"]:  # one replaces the other
        flags |= {key: None for key in ("data", "data_root") if not given[key]}
    job = open_job(flags)
    if own["dtype"] == job.flags["dtype"]:
        return job, job.trunk_hash
    return job, trunk_hash(own | {"device": job.flags["device"]})


def _chosen(folder: Path, runs: list[str], only: list[str] | None) -> list[str]:
    stored = [run for run in runs if (folder / "prompts" / run / "manifest.json").is_file()]
    if not stored:
        raise InputError(f"{folder}/prompts: no stored prompts yet; a run's are written when it ends")
    for name in only or []:
        if name not in stored:
            raise unknown("run", name, stored)
    return only or stored


def _score(folder: Path, job: Job, sets: list[ScoredRows], trained_on: str) -> RunResult:
    from compt_fast.fleet.evaluation import average, evaluate
    from compt_fast.fleet.results import RunResult
    from compt_fast.fleet.stored import check_trunk, load_prompts

    prompts, manifest = load_prompts(folder)
    check_trunk(folder, manifest, job.trunk, trained_on)
    run = next((run for run in job.runs if run.id == folder.name), None)
    if run is None:
        raise InputError(f"{folder}: the config.json of the run folder plans no such run")
    names = [data.task.name for data in job.data.tasks]
    if manifest.get("tasks") != names or prompts.shape.tasks != len(names):
        raise InputError(
            f"{folder}: prompts of the tasks {manifest.get('tasks')}, but the tasks of the run "
            f"folder's config.json are {names}"
        )
    tasks = evaluate(
        job.trunk,
        job.data,
        prompts,
        sets,
        mode=run.config.label_mode,
        scoring=job.flags["scoring"],
        batch_size=job.flags["eval_batch_size"],
    )
    return RunResult.finished(run, tasks, average(tasks))


if __name__ == "__main__":
    sys.exit(main())
