"""`python -m compt_fast.predict`: answer the rows of a file with trained prompts."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from compt_fast.cli.parser import CommandLine, file_path
from compt_fast.config.flags import parse
from compt_fast.prediction.line import add_prompts, load_prompts_of
from compt_fast.utils.errors import FIRST_SIGNAL, InputError, exit_code
from compt_fast.utils.output import complain

if TYPE_CHECKING:
    from compt_fast.prediction.answer_files import Out, Way
    from compt_fast.prediction.predictor import Predictor
    from compt_fast.prediction.row_files import RowFile

EXAMPLES = """examples:
  echo '{"sentence1": "the plot was dreadful."}' |
      python -m compt_fast.predict --prompts runs/mini-20260101-120000 --run spp-n3-k16-s0 --task mini_sst2
      one row, from standard input to standard output
  python -m compt_fast.predict --prompts RUN --run ID --input rows.csv --output answers.csv --scores --copy id
      a file of any size; each row names its task in the column "task"; answers bear the rows' own ids
  python -m compt_fast.predict --prompts STORE --prompts RUN/prompts/ID --input rows.parquet --output out.jsonl --resume
      prompts of several places; goes on after a kill, without a row lost or doubled

exit codes: 0 all rows answered; 1 some were not (--keep-going); 2 wrong input, or out of memory or disk; 129, 130 or
143 interrupted (closed terminal, Ctrl-C, SIGTERM), 141 where nobody reads the output any more (| head)"""


def parser() -> CommandLine:
    """The command line of `predict`."""
    made = CommandLine(
        prog="compt-fast predict",
        description="Answer rows with trained prompts: rows of many tasks, and prompts of many places, side by side.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_prompts(made, flag="--prompts")
    made.add_argument(
        "--input",
        metavar="FILE",
        type=file_path,
        default=Path("-"),
        help="rows: .jsonl, .csv, .tsv or .parquet, or JSON lines from standard input (default: -)",
    )
    made.add_argument(
        "--output",
        metavar="FILE",
        type=file_path,
        default=Path("-"),
        help="answers: .jsonl or .csv, or JSON lines on standard output (default: -)",
    )
    made.add_argument("--scores", action="store_true", help="with the likelihood of each label, normalised to sum to 1")
    made.add_argument("--copy", metavar="NAME[,NAME]", help="columns of the rows to repeat in their answers")
    made.add_argument(
        "--keep-going", action="store_true", help="answer a row that cannot be read by what is wrong with it ('error')"
    )
    made.add_argument(
        "--resume", action="store_true", help="go on with what an interrupted process left beside the output, if any"
    )
    made.add_argument("--batch-size", metavar="SIZE", default="128", help="rows a batch (default: 128)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    line = parser().parse_args(arguments)

    def work() -> int:
        from compt_fast.training.interrupts import Interrupted, raised_at_once

        try:
            with raised_at_once():
                return predict(line, arguments)
        except Interrupted as interrupted:
            return FIRST_SIGNAL + interrupted.signal

    return exit_code(work, out_of_memory_hint=": lower --batch-size, or take --device cpu")


def predict(line: Namespace, arguments: list[str]) -> int:
    """Check what is cheap to check, load the prompts, and answer."""
    from compt_fast.prediction.answer_files import Printed, Way, answer_file, check_output, made_by
    from compt_fast.prediction.row_files import RowFile

    size = parse("eval_batch_size", line.batch_size, "--batch-size")
    copied = tuple(name for name in (line.copy or "").split(",") if name)
    way = Way(line.task, line.scores, size, line.keep_going, copied)
    rows = RowFile(None if str(line.input) == "-" else line.input)
    printed = str(line.output) == "-"
    if printed and line.resume:
        raise InputError("--resume goes on with a file: name one by --output")
    if not printed:
        check_output(line.output, rows.path)
    predictor = load_prompts_of(line)
    if printed:
        return _answered(predictor, rows, Printed(), way)
    with answer_file(line.output, made_by(predictor, way), way.columns, line.resume) as out:
        try:
            return _answered(predictor, rows, out, way)
        except BaseException:
            if out.done.rows:
                flags = [*arguments, *([] if line.resume else ["--resume"])]
                complain(f"{out.done.rows:,} rows are answered; go on with: compt-fast predict {shlex.join(flags)}")
            raise


def _answered(predictor: Predictor, rows: RowFile, out: Out, way: Way) -> int:
    """Answer all rows, with a bar on a terminal, and say what came of it."""
    from compt_fast.prediction.answer_files import Done, answer_all
    from compt_fast.training.monitor import EVERY

    console = Console(stderr=True, markup=False)
    bar = Progress(
        TextColumn("{task.fields[rows]:,} rows"),
        BarColumn(),
        TextColumn("{task.fields[speed]:,.0f} rows/s"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    shown, before = bar.add_task("", total=None, rows=0, speed=0.0), out.done.rows
    began = said = time.monotonic()

    def show(done: Done) -> None:
        nonlocal said
        now = time.monotonic()
        speed = (done.rows - before) / (now - began)
        bar.update(shown, total=rows.total, completed=rows.done, rows=done.rows, speed=speed)
        if not console.is_terminal and now - said > EVERY:
            complain(f"rows answered so far: {done.rows:,} ({speed:,.0f} rows/s)")
            said = now

    with bar:
        done = answer_all(predictor, rows, out, way, show)
    failed = f", {done.failed:,} of them by what is wrong with them" if done.failed else ""
    complain(f"rows answered: {done.rows:,}{failed}")
    return 1 if done.failed else 0


if __name__ == "__main__":
    sys.exit(main())
