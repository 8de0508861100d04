"""`python -m compt_fast.evaluate RUN`: score a run folder's stored prompts again."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from compt_fast.cli.console import print_table
from compt_fast.cli.parser import CommandLine, file_path
from compt_fast.config.choices import MASKED_TOKENS, MASKINGS
from compt_fast.config.flags import FLAGS, add_flag, meaning
from compt_fast.utils.errors import InputError, exit_code
from compt_fast.utils.files import write_json

if TYPE_CHECKING:
    from compt_fast.evaluation.predictions import Record
    from compt_fast.runs.loaded import LoadedJob
    from compt_fast.training.results import RunResult

OVERRIDES = ("scoring", "eval_size", "eval_batch_size", "data_root", "data", "skip_empty", "device", "dtype")
LABELLED = (
    "labelled rows to score instead: DIR/<task>/{validation,test}.{jsonl,csv,tsv,parquet}, or, of a run of one task, "
    "a file; all their rows unless --eval-size is given, and only the tasks that DIR has a folder of"
)
MASKS = ("each", "subsets")


def parser() -> CommandLine:
    """The command line of `evaluate`."""
    made = CommandLine(
        prog="compt-fast evaluate",
        description="Score the stored prompts of a run folder again, without training. With no "
        "flags it repeats the evaluation of the training job and says whether the numbers are the "
        "same.",
        epilog="exit codes: 0 done (with no flags: the same numbers); 1 other numbers than in "
        "results.json; 2 wrong input, or out of memory",
    )
    made.add_argument("folder", metavar="RUN", type=file_path, help="run folder of compt_fast.train")
    made.add_argument("--runs", metavar="ID[,ID]", help="only these runs of it (default: all that have prompts)")
    made.add_argument(
        "--out",
        metavar="FILE",
        type=file_path,
        help="write the scores there, in the format of results.json",
    )
    made.add_argument(
        "--masks",
        choices=MASKS,
        help="score with some prompts switched off, into the run folder's masked.json: each source alone, all sources, "
        "the private prompt alone and the whole; or every subset of the sources, with the private prompt and without",
    )
    add_way(made)
    made.add_argument(
        "--predictions",
        metavar="FILE",
        type=Path,
        help="write what was predicted there, a row each: run, task, row, where, input, gold, prediction; as JSON "
        "lines or CSV, by the suffix .jsonl or .csv",
    )
    for key in OVERRIDES:
        text = LABELLED if key == "data" else meaning(FLAGS[key])
        add_flag(made, FLAGS[key], f"{text} (default: as in the run folder)")
    return made


def add_way(made: ArgumentParser) -> None:
    """Add the flags that say what masking does; `report` has them too."""
    made.add_argument(
        "--mask-how",
        choices=MASKINGS,
        help="whether masked sources leave the set before the router normalises, so that the weights of the rest grow "
        "(a source alone gets weight 1 of a softmax), or have weight 0 after it, the rest keeping theirs (default: "
        "before)",
    )
    made.add_argument(
        "--mask-tokens",
        choices=MASKED_TOKENS,
        help="of an scp prompt with a half masked, whether that half stays as tokens of zeros, which take attention, "
        "or is removed (default: zero)",
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = vars(parser().parse_args(argv))
    folder, runs, out, masks, file = (given.pop(key) for key in ("folder", "runs", "out", "masks", "predictions"))
    way = {key: given.pop(f"mask_{key}") for key in ("how", "tokens")}
    console = Console(markup=False)  # brackets in names are no markup
    only = runs.split(",") if runs else None

    def work() -> int:
        if masks is None:
            if any(way.values()):
                raise InputError(
                    "--mask-how and --mask-tokens say how to mask: say what too, by --masks each or subsets"
                )
            return repeat(folder, only, given, out, file, console)
        if file is not None:
            raise InputError("--predictions are those of whole prompts: leave out --masks")
        return mask(folder, only, given, out, masks, way, console)

    return exit_code(work, out_of_memory_hint=": lower --eval-batch-size, or take --device cpu")


def repeat(
    folder: Path, only: list[str] | None, given: dict[str, Any], out: Path | None, file: Path | None, console: Console
) -> int:
    """Score, print the table, write what is asked for, and compare with `results.json` when nothing was changed."""
    from compt_fast.evaluation.predictions import check_format, write_predictions
    from compt_fast.runs.answers import off_label_notes
    from compt_fast.runs.results import read_results
    from compt_fast.training.results import print_scores, results_json

    began = time.perf_counter()
    if file is not None:
        check_format(file)
    loaded, names = _open(folder, only, given)
    rows: list[Record] = []
    # the development scores, by which a run's prompts were chosen, are the training's alone
    recorded = {result.id: replace(result, development=None) for result in read_results(folder)}
    results = [
        _score(loaded, name, rows) for name in track(names, "scoring", console=console, disable=not console.is_terminal)
    ]
    print_scores(console, results)
    for note in off_label_notes(results, loaded.job.runs, [data.task for data in loaded.job.data.tasks]):
        console.print(note, soft_wrap=True)
    unscored = [of.task.name for of in loaded.sets if not of.golds]
    if unscored:
        console.print(f"not scored, as {given['data']} has no folder of them: {', '.join(unscored)}", soft_wrap=True)
    if out is not None:
        try:
            write_json(out, results_json(results, time.perf_counter() - began))
        except OSError as error:
            raise InputError(f"--out {out}: cannot be written ({error.strerror})") from None
    if file is not None:
        write_predictions(file, rows)
        console.print(f"{len(rows):,} predictions in {file}", soft_wrap=True)
    if any(value is not None for value in given.values()):
        return 0
    changed = [result.id for result in results if result != recorded.get(result.id)]
    if changed:
        console.print(f"other numbers than in results.json: {', '.join(changed)}", soft_wrap=True)
        return 1
    console.print("the same numbers as in results.json")
    return 0


def mask(
    folder: Path,
    only: list[str] | None,
    given: dict[str, Any],
    out: Path | None,
    which: str,
    how: dict[str, str | None],
    console: Console,
) -> int:
    """Score under masks, write `masked.json` and print its averages."""
    from compt_fast.runs.masking import Way, masked_scores, write_masked

    changed = [
        key for key in ("scoring", "eval_size", "data_root", "data", "skip_empty", "dtype") if given[key] is not None
    ]
    if changed or out is not None:
        name = FLAGS[changed[0]].name if changed else "out"
        raise InputError(f"--masks scores as the training did, into {folder}/masked.json: leave out --{name}")
    way = Way(**{key: value for key, value in how.items() if value is not None})
    loaded, names = _open(folder, only, given)
    rows = []
    for name in track(names, "scoring", console=console, disable=not console.is_terminal):
        masked = masked_scores(loaded, [name], which, way)
        try:
            write_masked(folder, way, masked)
        except OSError as error:
            raise InputError(f"{folder}/masked.json: cannot be written ({error.strerror})") from None
        for mask_name, scores in masked[name].items():
            rows.append([name, mask_name, f"{scores['average']:.1f}"])
    print_table(console, ["run", "prompts that are on", "average"], rows, caption="percent", turn=False)
    console.print(f"{way.says}\nscores of each task in {folder}/masked.json", soft_wrap=True)
    return 0


def _open(folder: Path, only: list[str] | None, given: dict[str, Any]) -> tuple[LoadedJob, list[str]]:
    """The folder's job, and the runs to score; what is cheap to check is checked first."""
    from compt_fast.runs.loaded import load_job, stored_runs

    if not (folder / "config.json").is_file():
        one = folder.resolve()
        inner = one.parent.name == "prompts" and (one / "manifest.json").is_file()
        hint = f"; it holds one run's prompts: name its run folder, {folder.parent.parent} --runs {one.name}"
        raise InputError(f"{folder}: no run folder (it has no config.json){hint if inner else ''}")
    names = stored_runs(folder, only)
    loaded = load_job(folder, given)
    scored = [name for name in names if any(of.golds for of in loaded.rows(name))]
    if not scored:
        raise InputError(f"--data {given['data']}: there are rows of no task of {', '.join(names)}")
    return loaded, scored


def _score(loaded: LoadedJob, name: str, rows: list[Record]) -> RunResult:
    """A run's scores; the records of its predictions are added to `rows`."""
    from compt_fast.evaluation.evaluator import average, scored
    from compt_fast.evaluation.predictions import records
    from compt_fast.training.results import RunResult

    sets, mode, predicted = loaded.rows(name), loaded.run(name).config.label_mode, loaded.predict(name)
    rows += records(name, loaded.job.data, sets, predicted, mode)
    tasks = scored(sets, predicted, mode)
    return RunResult.finished(loaded.run(name), tasks, average(tasks))


if __name__ == "__main__":
    sys.exit(main())
