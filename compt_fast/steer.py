"""`python -m compt_fast.steer`: list the runs of a job, and stop, resume, clone and add some while it is going."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from compt_fast.cli.console import print_table
from compt_fast.cli.parser import CommandLine, file_path
from compt_fast.config.flags import add_flag, meaning
from compt_fast.config.run import RUN_FLAGS
from compt_fast.utils.errors import exit_code
from compt_fast.utils.output import complain

EXAMPLES = """examples, of a job that another terminal trains:
  python -m compt_fast.steer runs/mini-20260101-120000 list
      its runs: what each does, its steps, its loss and its scores
  python -m compt_fast.steer runs/mini-20260101-120000 stop spp-n4-k16-s0
      the run leaves; its prompts so far are in the folder, and it can go on to the same end
  python -m compt_fast.steer runs/mini-20260101-120000 resume spp-n4-k16-s0
  python -m compt_fast.steer runs/mini-20260101-120000 clone spp-n4-k16-s0 --lr-source 0.1,0.2
      two more runs that differ in nothing else
  python -m compt_fast.steer runs/mini-20260101-120000 add --method mst --seeds 0,1
      what is not given is as in the job (of several values the first)

The job answers between two steps, and this command waits for it; requests/answers.jsonl in the run folder keeps every
answer. exit codes: 0 done; 2 refused, or no job is going there (list shows any folder)"""


def parser() -> CommandLine:
    """The command line of `steer`."""
    made = CommandLine(
        prog="compt-fast steer",
        description="Steer a job of compt_fast.train while it is going; no bit of the other runs depends on it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("folder", type=file_path, metavar="RUN", help="the run folder of the job")
    commands = made.add_subparsers(dest="do", required=True, metavar="COMMAND")
    texts = {
        "list": "one line a run",
        "stop": "take a run out, so that one that waits gets its place",
        "resume": "let a run that was stopped go on from where it was",
        "clone": "add runs that are as another one but for the flags given",
        "add": "add runs of the flags given",
    }
    for name, text in texts.items():
        own = commands.add_parser(name, help=text, description=text)
        if name in ("stop", "resume", "clone"):
            own.add_argument("run", metavar="ID", help="the run, as `list` names it")
        for flag in RUN_FLAGS.values() if name in ("clone", "add") else ():
            add_flag(own, flag, meaning(flag))
    return made


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = vars(parser().parse_args(argv))
    folder, do, run = given.pop("folder"), given.pop("do"), given.pop("run", "")
    flags = {key: str(value) for key, value in given.items() if value is not None}
    return exit_code(lambda: show(folder) if do == "list" else send(folder, do, run, flags))


def send(folder: Path, do: str, run: str, flags: dict[str, Any]) -> int:
    """Ask the job, and print its answer."""
    from compt_fast.runs.requests import Request, request_of

    answer = request_of(folder, Request(do, run, flags), lambda: complain("waiting for the job's next step ..."))
    if not answer.done:
        complain(f"error: {answer.says}")
        return 2
    print(answer.says)
    return 0


def show(folder: Path) -> int:
    """The table of a folder's runs, and whether a job is going there."""
    from compt_fast.runs.requests import is_going, states

    console = Console(markup=False)
    found = states(folder)
    rows = [[of.id, of.state, str(of.steps), "-" if of.loss is None else f"{of.loss:.3f}", of.score] for of in found]
    print_table(console, ["run", "state", "steps", "loss", "score"], rows, turn=False)
    going = "a job is going" if is_going(folder) else "no job is going"
    console.print(f"{going} in {folder}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
