"""`python -m compt_fast.check`: look at a job's rows, texts and plan before training it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from compt_fast.cli.parser import CommandLine
from compt_fast.config.baselines import METHODS
from compt_fast.config.job import JobSettings
from compt_fast.config.run import RUN_FLAGS
from compt_fast.runs.recipes import settings_of
from compt_fast.train import add_job
from compt_fast.utils.errors import exit_code
from compt_fast.utils.words import plural

if TYPE_CHECKING:
    from compt_fast.runs.survey import Survey
    from compt_fast.tasks.examples import JobData
    from compt_fast.training.plan import Run

SHOWN = 600  # characters of an example's text

EPILOG = """Trains nothing and writes nothing. Of each split it counts the labels of all rows, and
looks at the texts of up to 2,000 of them: tokens, rows that --max-source-length cuts,
what the trunk's tokenizer does not know, rows that stand twice, in a split or in both.
Then come an example of each task, as the trunk reads and is to write it, and the plan:
runs, steps and, of a long job, the time that a few measured steps foretell.

examples:
  python -m compt_fast.check --model t5-base --task-file tickets.toml
  python -m compt_fast.check --suite glue --data-root hub --model t5-base --shots full --label-mode natural,synthetic

exit codes: 0 nothing to warn of; 1 there are warnings, each in a line of its own; 2 wrong input, or out of memory"""


def parser() -> CommandLine:
    """The command line of `check`."""
    made = CommandLine(
        prog="compt-fast check",
        description="Look at a job before training it: rows, texts, plan, time.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_job(made)
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = vars(parser().parse_args(argv))
    config, mini, only = given.pop("config"), given.pop("mini"), given.pop("jobs")
    console = Console(markup=False)  # brackets in names are no markup

    def work() -> int:
        code = 0
        for name, settings in settings_of(given, config, mini, only).items():
            if name:
                console.print(f"job {name}")
            code = max(code, check(settings, console))
        return code

    return exit_code(work, out_of_memory_hint=": lower --runs-at-once, --batch-size or --max-source-length")


def check(settings: JobSettings, console: Console) -> int:
    """Look at one job and print what there is to see; 1 where there is something to warn of."""
    from compt_fast.runs.estimate import estimate
    from compt_fast.runs.folder import named_folder
    from compt_fast.runs.pipeline import prepare
    from compt_fast.runs.summary import foreign_words, print_plan, print_search_plan, steps_before
    from compt_fast.runs.survey import problems, survey

    made = prepare(named_folder(settings), settings, writing=False)
    job, trainer = made.stage_two.job, made.stage_two.trainer
    data = job.data
    seen = [(survey(data, t, train=True), survey(data, t, train=False)) for t in range(len(data.tasks))]
    _print_rows(console, [of for pair in seen for of in pair])
    _print_examples(console, data, job.runs)
    before = [(own, "source prompts that the store lacks") for own in made.stage_one]
    before += [(own, "a prompt that the source tasks share") for own in made.sharing]
    for own, what in before:
        console.print(f"Stage one, of {what}:")
        print_plan(console, own.trainer, estimate(own.trainer))
    if made.stage_two.search is None:
        print_plan(console, trainer, estimate(trainer))
    else:
        print_search_plan(console, trainer, made.stage_two.search)
    for note in (*steps_before([own.trainer for own, _ in before], settings), *unused(settings)):
        console.print(f"note: {note}", soft_wrap=True)
    warnings = [line for pair in seen for line in problems(*pair, data.max_length)]
    for line in warnings:
        console.print(f"warning: {line}", soft_wrap=True)
    count = len(warnings) + len(foreign_words(trainer))
    console.print(f"{plural(count, 'warning')}; nothing was trained, nothing was written")
    return 1 if count else 0


def unused(settings: JobSettings) -> list[str]:
    """A line on each flag that is given, and changes nothing in some of the methods."""
    lines: list[str] = []
    if settings.search is not None:
        return lines  # whose methods stand in its space
    for flag in RUN_FLAGS.values():
        idle = [method for method in settings.sweep.methods if not flag.used(METHODS[method])]
        if flag.default != settings.sweep.values.get(flag.field, flag.default) and idle:
            lines.append(f"--{flag.name} changes nothing in {', '.join(idle)}")
    return lines


def _print_rows(console: Console, seen: list[Survey]) -> None:
    """Counts of labels, and lengths; both tables fit 80 columns."""
    import numpy as np  # late, as all that takes a while to import

    labels = Table("task", "split", "rows", "labels", title="Rows")
    lengths = Table("task", "split", "rows", "median", "95 %", "longest", "cut", title="Tokens of a text, uncut")
    for of in seen:
        counts = ", ".join(f"{word} {count:,}" for word, count in of.labels.items())
        low, high = of.task.score_range
        labels.add_row(of.task.name, of.name, f"{of.rows:,}", counts or f"a score from {low:g} to {high:g}")
        median, high_share = (int(np.quantile(of.lengths, q, method="higher")) for q in (0.5, 0.95))
        cells = (of.looked, median, high_share, int(of.lengths.max()), of.cut)
        lengths.add_row(of.task.name, of.name, *(f"{cell:,}" for cell in cells))
    for table in (labels, lengths):
        for column in table.columns[2 : len(table.columns) - (table is labels)]:
            column.justify = "right"
        console.print(table)


def _print_examples(console: Console, data: JobData, runs: list[Run]) -> None:
    """A row of each task as the trunk reads it, and its label in each mode that a run asks for."""
    from compt_fast.tasks.text import label_text

    modes = list(dict.fromkeys(run.config.label_mode for run in runs))
    console.print("Examples, as the trunk reads and is to write them:")
    for t, of in enumerate(data.tasks):
        ids = data.read(t, 0, train=True).cut(data.max_length)
        text = data.tokenizer.decode(ids, skip_special_tokens=True)
        console.print(f"  {text if len(text) <= SHOWN else text[:SHOWN] + ' ...'}", soft_wrap=True)
        for mode in modes:
            console.print(f"    {mode}: {label_text(of.task, of.train[0].label, mode)}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
