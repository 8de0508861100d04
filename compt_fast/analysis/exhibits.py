"""What a report is made of: sections of exhibits, each a sentence, a table of its numbers and often a picture."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from compt_fast.analysis.words import unused

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = str | int | float | None
"""A table's cell; None is what is not defined or not there, and no zero."""

NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """Heads and rows of a table; `best` are the (row, column) of cells that stand out."""

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    decimals: int = 1
    best: frozenset[tuple[int, int]] = frozenset()

    def text(self, row: int, column: int) -> str:
        """A cell as a reader sees it."""
        cell = self.rows[row][column]
        if cell is None:
            return NOTHING
        return f"{cell:.{self.decimals}f}" if isinstance(cell, float) else str(cell)

    def texts(self) -> list[list[str]]:
        """All cells as a reader sees them."""
        return [[self.text(r, c) for c in range(len(row))] for r, row in enumerate(self.rows)]

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, and so stands to the right."""
        return all(re.match(r"-?\d|[-–]$", self.text(r, column)) for r in range(len(self.rows)))

    def markdown(self) -> str:
        """The table in Markdown, cells that stand out in bold."""
        lines = [
            list(map(_escaped, self.heads)),
            ["---:" if self.numeric(c) else "---" for c in range(len(self.heads))],
        ]
        for r, row in enumerate(self.texts()):
            lines.append([f"**{_escaped(t)}**" if (r, c) in self.best else _escaped(t) for c, t in enumerate(row)])
        return "".join("| " + " | ".join(line) + " |\n" for line in lines)

    def csv(self) -> str:
        """The table as CSV, numbers unrounded and empty where there is nothing, texts no formulas."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(map(_inert, self.heads))
        writer.writerows([["" if cell is None else _inert(cell) for cell in row] for row in self.rows])
        return out.getvalue()


@dataclass(frozen=True)
class Exhibit:
    """A figure or a table of the report.

    `name` is the stem of its files, `says` the sentence that stands over it, and `metric` what its
    numbers are. Without a picture the table itself is shown.
    """

    name: str
    title: str
    says: str
    metric: str
    table: Table
    picture: Figure | None = None


@dataclass(frozen=True)
class Section:
    """Exhibits about one question; `folded` groups of further ones open on demand, by heading."""

    title: str
    intro: str
    exhibits: list[Exhibit]
    folded: dict[str, list[Exhibit]] = field(default_factory=dict)

    def all(self) -> list[Exhibit]:
        """Every exhibit of the section."""
        return [*self.exhibits, *(exhibit for group in self.folded.values() for exhibit in group)]


def with_own_names(sections: Sequence[Section]) -> list[Section]:
    """The sections with a file name of its own for every exhibit: of equal ones all but the first get a number.

    Titles that differ can have one name, in which letters and digits alone are left of them.
    """
    taken: set[str] = set()

    def named(exhibits: list[Exhibit]) -> list[Exhibit]:
        own = []
        for exhibit in exhibits:
            own.append(replace(exhibit, name=unused(exhibit.name, taken, "-")))
            taken.add(own[-1].name)
        return own

    return [
        replace(
            section,
            exhibits=named(section.exhibits),
            folded={heading: named(group) for heading, group in section.folded.items()},
        )
        for section in sections
    ]


def _escaped(text: str) -> str:
    """A cell of Markdown: no bar and no line break ends it."""
    return text.replace("|", "\\|").replace("\n", " ")


def _inert(cell: Cell) -> Cell:
    """A cell that a spreadsheet takes for text where it is text: one that would be a formula begins with an apostrophe.

    A mean with its deviation, and the hyphen of a cell without one, are none.
    """
    formula = isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r")
    return f"'{cell}" if formula and not re.fullmatch(r"-|-\d+\.\d+( ± \d+\.\d+)?", str(cell)) else cell
