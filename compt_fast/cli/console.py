"""The consoles that commands print on, and tables that fit them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

GAP = 3  # between two columns of a table of rich, with its padding
NARROW = 16  # what a head may take; a longer one is folded


def for_tables(console: Console) -> Console:
    """Where a wide table goes: `console`, or, where that is a file or a pipe, one whose lines are long enough.

    Rich takes a file for 80 columns wide, and nobody reads a file by the width of a window.
    """
    shown = console.is_terminal or console.is_jupyter or console.quiet
    return console if shown else Console(file=console.file, width=200, markup=False)


def print_table(
    console: Console, heads: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "", turn: bool = True
) -> None:
    """Print a table of which no cell is cut, however narrow the console.

    The first column names the rows and stands to the left. Names that take too much room are folded;
    what is too wide even so is split into tables below each other, each with the first column, or
    turned, a column a row, where `turn` allows it and that makes fewer tables.
    """
    console = for_tables(console)
    columns = [[_line(heads[c]), *(row[c] for row in rows)] for c in range(1, len(heads))]
    turned = [heads[0], *(row[0] for row in rows)]
    ways = [(heads, rows, console.width), (heads, rows, console.width // 3)]
    ways += [(turned, columns, console.width // 2)] if turn and rows else []
    parts = [_parts(console.width, *way) for way in ways]
    fewest = min(range(len(ways)), key=lambda k: len(parts[k]))
    for k, part in enumerate(parts[fewest]):
        console.print(*([""] if k else []), _table(*ways[fewest], part), sep="\n")
    if caption:
        console.print(caption, soft_wrap=True, style="italic")


def _parts(width: int, heads: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> list[list[int]]:
    """The columns in as few tables as they fit into, in their order, with row names of at most `room`."""
    names = [line for row in rows for line in _folded(row[0], room)]
    first = _width([*_folded(heads[0], NARROW), *names])
    parts: list[list[int]] = [[]]
    taken = first
    for column in range(1, len(heads)):
        wider = GAP + _width([*_folded(heads[column], NARROW), *(row[column] for row in rows)])
        if taken + wider > width and parts[-1]:
            parts.append([])
            taken = first
        parts[-1].append(column)
        taken += wider
    return parts


def _width(lines: Sequence[str]) -> int:
    """The columns of a terminal that the longest line takes."""
    return max(map(cell_len, lines))


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], room: int, columns: Sequence[int]) -> Table:
    """The first column, with names of at most `room`, and the `columns`."""
    folded = [_folded(heads[column], NARROW) for column in (0, *columns)]
    lines = max(map(len, folded))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for k, head in enumerate(folded):
        table.add_column("\n" * (lines - len(head)) + "\n".join(head), justify="right" if k else "left", no_wrap=True)
    for row in rows:
        table.add_row("\n".join(_folded(row[0], room)), *(row[column] for column in columns))
    return table


def _folded(name: str, width: int) -> list[str]:
    """A name in lines of at most `width`, each broken after a hyphen or space where there is one."""
    lines: list[str] = []
    for given in name.split("\n"):
        line = ""
        for word in re.split(r"(?<=[- ])", given):
            if line and len(line) + len(word.rstrip()) > width:
                lines.append(line.rstrip())
                line = ""
            line += word
            while len(line.rstrip()) > width:
                lines.append(line[:width])
                line = line[width:]
        lines.append(line.rstrip())
    return lines


def _line(head: str) -> str:
    return head.replace("\n", " ")
