"""The parser of every command's line: what is wrong with it is said in one line, as all other wrong input is."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

from compt_fast.errors import InputError
from compt_fast.inputs import check_path


def file_path(text: str) -> Path:
    """A path of the command line, the `type` of an argument; what no file can be called is refused."""
    try:
        check_path(text, "path")
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)


class CommandLine(argparse.ArgumentParser):
    """An `ArgumentParser` that names the flag nearest to one that it does not know, and prints no usage."""

    def __init__(self, **settings: Any) -> None:
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
            self._refuse(left[0])
        return found, left

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the line, and end the process with 2."""
        self.exit(2, f"error: {message} ({self.prog} --help explains every flag)\n")

    def _knows(self, text: str) -> bool:
        return text.split("=", 1)[0] in self._option_string_actions

    def _refuse(self, text: str) -> NoReturn:
        if not text.startswith("-"):
            self.error(f"unexpected argument {text!r}")
        name = text.split("=", 1)[0]
        near = get_close_matches(name, self._option_string_actions, n=1)
        self.error(f"unknown flag {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
