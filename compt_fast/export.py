"""`python -m compt_fast.export PATH --format FORMAT -o DIR`: write trained prompts for other software."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from pathlib import Path

from rich.console import Console

from compt_fast.cli.parser import CommandLine, file_path
from compt_fast.config.choices import EXPORT_NAMES
from compt_fast.prediction.line import add_prompts, load_prompts_of
from compt_fast.utils.errors import exit_code
from compt_fast.utils.registry import summary
from compt_fast.utils.words import plural

EPILOG = """formats:
{formats}

DIR is whole or not there: an export takes the place of an earlier one, and of nothing else.

examples:
  python -m compt_fast.export runs/first --run spp-n3-k32-s0 --format peft -o adapters
  python -m compt_fast.export runs/first/prompts/spp-n3-k32-s0 --task mini_rte --format vocabulary -o t5-rte
  python -m compt_fast.export prompts --format vocabulary -o t5-prompts
      all prompts of a store in one checkpoint
  python -m compt_fast.export runs/first --format peft -o adapters --push me/my-adapters

exit codes: 0 done; 2 wrong input, or a format that cannot hold these prompts"""


def parser() -> CommandLine:
    """The command line of `export`."""
    formats = "\n".join(f"  {name:12} {summary('compt_fast.exports', name)}" for name in EXPORT_NAMES)
    made = CommandLine(
        prog="compt-fast export",
        description="Write trained prompts in a format that other software loads.",
        epilog=EPILOG.format(formats=formats),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--format", required=True, metavar="FORMAT", help=f"one of {', '.join(EXPORT_NAMES)}; see below")
    made.add_argument("-o", "--out", required=True, type=file_path, metavar="DIR", help="folder to write")
    made.add_argument(
        "--push", metavar="NAME", help="then upload DIR to the hub's repository NAME, which is made if it is not there"
    )
    add_prompts(made)
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    line = parser().parse_args(argv)
    console = Console(markup=False)  # brackets in names are no markup
    return exit_code(lambda: export(line, console), out_of_memory_hint=": take --device cpu")


def export(line: Namespace, console: Console) -> int:
    """Read, write, upload where that is asked for, and say how the result is loaded."""
    from compt_fast.exports import check_format, check_place, write_export
    from compt_fast.utils.hub import Repository

    check_format(line.format)
    check_place(line.out)
    # all that can be wrong is known before a trunk is read
    repository = None if line.push is None else Repository(line.push)
    predictor = load_prompts_of(line)
    files = write_export(predictor, line.format, line.out)
    tasks = list(predictor.prompts)
    named = ", ".join(tasks) if len(tasks) < 5 else plural(len(tasks), "task")
    console.print(f"{line.format}: {named} in {line.out} ({plural(len(files), 'file')})", soft_wrap=True)
    if lines := how_to_load(line.out):
        says = f"\n{line.out}/README.md says what it holds. To load it, in {line.out}:\n\n{lines}"
        console.print(says, soft_wrap=True)
    if repository is not None:
        console.print(f"uploaded to {repository.upload(line.out)}", soft_wrap=True)
    return 0


def how_to_load(folder: Path) -> str:
    """The lines of Python that the card of an export shows; "" where there are none."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text.partition("```python\n")[2].partition("```")[0]


if __name__ == "__main__":
    sys.exit(main())
