"""The console script `compt-fast COMMAND ...`: hands the rest to that command's `main`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import compt_fast
from compt_fast.utils.errors import unknown

COMMANDS = {
    "train": "train a fleet of runs and print the table of its results",
    "check": "look at a job's rows, texts, plan and time before training it",
    "steer": "list the runs of a job that is going; stop, resume, clone and add some",
    "evaluate": "repeat the evaluation of a run folder from its stored prompts",
    "predict": "answer the rows of a file, or of standard input, with trained prompts",
    "report": "make the tables and figures of both papers from trained runs",
    "export": "write trained prompts for other software: PEFT, transformers, CTranslate2, TorchScript",
    "serve": "answer rows over HTTP with trained prompts, many tasks over one trunk",
    "store": "list, show, add, remove and check stored prompts",
    "info": "print versions, device, engines, and what is missing and what that costs",
}
"""Each is the module `compt_fast.<name>`, whose `main(argv)` returns the exit status."""


def usage() -> str:
    """The help text of the script itself."""
    rows = "\n".join(f"  {name:10} {what}" for name, what in COMMANDS.items())
    return (
        "usage: compt-fast [--help | --version] COMMAND ...\n\n"
        f"{rows}\n\n"
        "`compt-fast COMMAND --help` lists its flags. Each is also `python -m compt_fast.COMMAND`."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (by default the process's arguments) names; its exit status.

    Only the named command's module is imported, so that help and a mistyped name answer at once.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        print(usage(), file=sys.stderr)
        return 2
    name, rest = arguments[0], arguments[1:]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"compt_fast {compt_fast.__version__}")
        return 0
    if name not in COMMANDS:
        print(f"error: {unknown('command', name, COMMANDS)}", file=sys.stderr)
        return 2
    # What the command's own parser shows as its name in usage and messages.
    sys.argv[0] = f"compt-fast {name}"
    return int(importlib.import_module(f"compt_fast.{name}").main(rest) or 0)
