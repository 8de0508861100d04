"""The consoles that commands print on."""

from __future__ import annotations

from rich.console import Console


def for_tables(console: Console) -> Console:
    """Where a wide table goes: `console`, or, where that is a file or a pipe, one whose lines are long enough.

    Rich takes a file for 80 columns wide and would cut the cells of a table of eight tasks.
    """
    return console if console.is_terminal else Console(file=console.file, width=200, markup=False)
