"""Folders whose files are the choices of a setting: a new choice is a new file.

A package such as `compt_fast.prompts.gates` holds one module a choice, `learned_global.py` for `learned-global`, each
with its `ENTRY`. The package itself says what an entry is, and in its `ORDER` which names are listed first.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import Generic, TypeVar

Entry = TypeVar("Entry")


def names_in(package: str) -> tuple[str, ...]:
    """The names of a package's entries, from the names of its files: those of its `ORDER`, then the others by alphabet.

    Imports the package and none of its entries, so that flags can be listed where nothing heavy is loaded.
    """
    module = import_module(package)
    first: tuple[str, ...] = module.ORDER
    found = {info.name.replace("_", "-") for info in iter_modules(module.__path__)}
    return (*first, *sorted(found.difference(first)))


def summary(package: str, name: str) -> str:
    """The first line of the docstring of an entry's file, without its full stop; it is read and not imported."""
    spec = find_spec(f"{package}.{name.replace('-', '_')}")
    if spec is None or spec.origin is None:
        return "registered by assignment"
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].rstrip(".")


class Registry(MutableMapping[str, Entry], Generic[Entry]):
    """The entries of a package by name, in the order of `names_in`, each imported when it is first asked for.

    Code that is no file of the package adds an entry by assignment. An unknown name is a `KeyError`.
    """

    def __init__(self, package: str) -> None:
        self._package = package
        self._entries: dict[str, Entry | None] = {}  # None: not imported yet

    def _known(self) -> dict[str, Entry | None]:
        """All names; not listed before the first use, as a package makes its registry while it is imported."""
        if not self._entries:
            self._entries.update(dict.fromkeys(names_in(self._package)))
        return self._entries

    def __getitem__(self, name: str) -> Entry:
        entry = self._known()[name]
        if entry is None:
            module = import_module(f"{self._package}.{name.replace('-', '_')}")
            entry = self._entries[name] = module.ENTRY
        return entry

    def __setitem__(self, name: str, entry: Entry) -> None:
        self._known()[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._known()[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known()

    def __iter__(self) -> Iterator[str]:
        return iter(self._known())

    def __len__(self) -> int:
        return len(self._known())
