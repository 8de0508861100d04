"""Tables as a reader, a spreadsheet and Markdown get them."""

from __future__ import annotations

import csv
import io

from compt_fast.report.exhibits import Table

TABLE = Table(["run", "score", "of"], [["spp | 1", 61.25, 3], ["pt", None, 12]], best=frozenset({(0, 1)}))


def test_cells_are_rounded_for_readers_alone() -> None:
    assert TABLE.texts() == [["spp | 1", "61.2", "3"], ["pt", "–", "12"]]
    rows = list(csv.reader(io.StringIO(TABLE.csv())))
    assert rows == [["run", "score", "of"], ["spp | 1", "61.25", "3"], ["pt", "", "12"]]


def test_markdown_escapes_bars_and_marks_what_is_best() -> None:
    assert TABLE.markdown().splitlines() == [
        "| run | score | of |",
        "| --- | ---: | ---: |",
        "| spp \\| 1 | **61.2** | 3 |",
        "| pt | – | 12 |",
    ]


def test_columns_of_numbers_are_known() -> None:
    assert [TABLE.numeric(c) for c in range(3)] == [False, True, True]
    assert Table(["mean"], [["71.0 ± 2.0"], ["-3.0 ± 1.0"]]).numeric(0)
