"""The parser of every command's line: what is wrong with it is said in one line, as all other wrong input is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

from compt_fast.utils.errors import InputError
from compt_fast.utils.output import flush

OTHER_NAMES = {
    "--learning-rate": "--lr",
    "--output-dir": "--out",
    "--num-train-epochs": "--epochs",
    "--num-virtual-tokens": "--prompt-length",
    "--max-length": "--max-source-length",
    "--max-seq-length": "--max-source-length",
    "--per-device-train-batch-size": "--batch-size",
}
"""What transformers and PEFT call a setting: a flag of ours, or the beginning of several."""
UNSUPPORTED = "compt_fast runs on Linux and macOS; on Windows take the Windows Subsystem for Linux (WSL)"


def file_path(text: str) -> Path:
    """A path of the command line, the `type` of an argument; what no file can be called is refused."""
    from compt_fast.utils.inputs import check_path  # needs a package, and `info` has to run without any

    try:
        check_path(text, "path")
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)


class CommandLine(argparse.ArgumentParser):
    """An `ArgumentParser` that names the flag nearest to one that it does not know, and prints no usage."""

    def __init__(self, **settings: Any) -> None:
        if sys.platform == "win32":  # before anything is imported that Windows has not
            print(f"error: {UNSUPPORTED}", file=sys.stderr)
            sys.exit(2)
        super().__init__(**{"allow_abbrev": False} | settings)

    def parse_known_args(  # type: ignore[override]  # the overloads of its stub say no more than this
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """As the class above, but nothing that is unknown is left over: it ends the process with 2."""
        given = list(sys.argv[1:] if args is None else args)
        if self._subparsers is None:  # those know their own flags
            for text in takewhile(lambda text: text != "--", given):
                if text.startswith("--") and " " not in text and not self._knows(text):
                    self._refuse(text)  # before a flag is missed that it was meant to be
        found, left = super().parse_known_args(given, namespace)
        if left:
            self._refuse(left[0], self._listed_before(left[0], given))
        return found, left

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End the process; an output that is closed behind the help, as by `| head`, is no error."""
        flush()
        super().exit(status, message)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the line, and end the process with 2."""
        self.exit(2, f"error: {message} ({self.prog} --help explains every flag)\n")

    def _knows(self, text: str) -> bool:
        return text.split("=", 1)[0] in self._option_string_actions

    def _listed_before(self, text: str, given: list[str]) -> str:
        """The comma list that was meant where `text` stands after other values of a flag that takes one, else ""."""
        at = given.index(text)
        start = next((i for i in range(at - 1, -1, -1) if given[i].startswith("--")), None)
        if start is None:
            return ""
        name, _, value = given[start].partition("=")
        action = self._option_string_actions.get(name)
        if action is None or not isinstance(action.metavar, str) or "[," not in action.metavar:
            return ""
        values = [*([value] if value else []), *takewhile(lambda text: not text.startswith("-"), given[start + 1 :])]
        return f"{name} {','.join(value.strip(',') for value in values)}"

    def _refuse(self, text: str, meant: str = "") -> NoReturn:
        if not text.startswith("-"):
            hint = f"; lists are written with commas and no blanks: {meant}" if meant else ""
            self.error(f"unexpected argument {text!r}{hint}")
        name = text.split("=", 1)[0]
        near = self._near(name)
        self.error(f"unknown flag {name!r}." + (f" Did you mean {' or '.join(map(repr, near))}?" if near else ""))

    def _near(self, name: str) -> list[str]:
        """The flags that may have been meant: of that other name, beginning so, or spelled nearly so."""
        asked = OTHER_NAMES.get(name.replace("_", "-"), name)
        known = self._option_string_actions
        beginning = [flag for flag in known if flag.startswith(f"{asked}-") or flag in (asked, f"{asked}s")]
        return beginning or get_close_matches(asked, known, n=1)
