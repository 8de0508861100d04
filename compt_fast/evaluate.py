"""`python -m compt_fast.evaluate RUN`: score a run folder's stored prompts again."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from compt_fast.cli.console import print_table
from compt_fast.cli.parser import CommandLine, file_path
from compt_fast.config.choices import MASKED_TOKENS, MASKINGS
from compt_fast.config.flags import add_flag, flags_also_of, meaning
from compt_fast.utils.errors import InputError, exit_code
from compt_fast.utils.files import write_json

if TYPE_CHECKING:
    from compt_fast.runs.loaded import LoadedJob

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
    made.add_argument("--runs", metavar="ID[,ID]", help="only these runs of it (default: all that have finished)")
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
    for flag in flags_also_of("evaluate"):
        text = LABELLED if flag.key == "data" else meaning(flag)
        add_flag(made, flag, f"{text} (default: as in the run folder)")
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
    line = parser().parse_args(argv)
    console = Console(markup=False)  # brackets in names are no markup

    def work() -> int:
        if line.masks is None:
            if line.mask_how or line.mask_tokens:
                raise InputError(
                    "--mask-how and --mask-tokens say how to mask: say what too, by --masks each or subsets"
                )
            return repeat(line, console)
        if line.predictions is not None:
            raise InputError("--predictions are those of whole prompts: leave out --masks")
        return mask(line, console)

    return exit_code(work, out_of_memory_hint=": lower --eval-batch-size, or take --device cpu")


def repeat(line: Namespace, console: Console) -> int:
    """Score, print the table, write what is asked for, and compare with `results.json` when nothing was changed."""
    from compt_fast.evaluation.predictions import check_format, write_predictions
    from compt_fast.runs.rescoring import rescore
    from compt_fast.training.results import print_scores, results_json

    began = time.perf_counter()
    if line.predictions is not None:
        check_format(line.predictions)
    loaded, names = _open(line, console)
    found = rescore(loaded, _tracked(names, console))
    print_scores(console, found.results)
    for note in found.notes:
        console.print(note, soft_wrap=True)
    if found.unscored:
        console.print(f"not scored, as {line.data} has no folder of them: {', '.join(found.unscored)}", soft_wrap=True)
    if line.out is not None:
        try:
            write_json(line.out, results_json(found.results, time.perf_counter() - began))
        except OSError as error:
            raise InputError(f"--out {line.out}: cannot be written ({error.strerror})") from None
    if line.predictions is not None:
        write_predictions(line.predictions, found.records)
        console.print(f"{len(found.records):,} predictions in {line.predictions}", soft_wrap=True)
    if any(value is not None for value in _given(line).values()):
        return 0
    if found.changed:
        console.print(f"other numbers than in results.json: {', '.join(found.changed)}", soft_wrap=True)
        return 1
    console.print("the same numbers as in results.json")
    return 0


def mask(line: Namespace, console: Console) -> int:
    """Score under masks, write `masked.json` and print its averages."""
    from compt_fast.runs.masking import Way, masked_scores, write_masked

    given = _given(line)
    others = [flag.name for flag in flags_also_of("evaluate") if not flag.pace and given[flag.key] is not None]
    others += ["out"] if line.out is not None else []
    if others:
        raise InputError(f"--masks scores as the training did, into {line.folder}/masked.json: leave out --{others[0]}")
    way = Way(line.mask_how or Way.how, line.mask_tokens or Way.tokens)
    loaded, names = _open(line, console)
    rows = []
    for name in _tracked(names, console):
        masked = masked_scores(loaded, [name], line.masks, way)
        try:
            write_masked(line.folder, way, masked)
        except OSError as error:
            raise InputError(f"{line.folder}/masked.json: cannot be written ({error.strerror})") from None
        for mask_name, scores in masked[name].items():
            rows.append([name, mask_name, f"{scores['average']:.1f}"])
    print_table(console, ["run", "prompts that are on", "average"], rows, caption="percent", turn=False)
    console.print(f"{way.says}\nscores of each task in {line.folder}/masked.json", soft_wrap=True)
    return 0


def _given(line: Namespace) -> dict[str, Any]:
    """The settings of the job that the line replaces: texts (of a switch true or false), or None."""
    return {flag.key: getattr(line, flag.key) for flag in flags_also_of("evaluate")}


def _open(line: Namespace, console: Console) -> tuple[LoadedJob, list[str]]:
    """The folder's job, and the runs to score; prints which of all its runs cannot be."""
    from compt_fast.runs.rescoring import left_out, open_stored

    loaded, names = open_stored(line.folder, line.runs.split(",") if line.runs else None, _given(line))
    for note in [] if line.runs else left_out(loaded):
        console.print(note, soft_wrap=True)
    return loaded, names


def _tracked(names: list[str], console: Console) -> Iterable[str]:
    """The names, with a bar of how many are done on a terminal."""
    return track(names, "scoring", console=console, disable=not console.is_terminal)


if __name__ == "__main__":
    sys.exit(main())
