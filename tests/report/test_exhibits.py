"""Tables as a reader, a spreadsheet and Markdown get them."""

from __future__ import annotations

import csv
import io

from compt_fast.report.exhibits import Exhibit, Section, Table, with_own_names

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


def test_no_two_exhibits_have_one_name_and_none_is_left_out() -> None:
    def section(*names: str) -> Section:
        exhibits = [Exhibit(name, f"{name} {k}", "", "", TABLE) for k, name in enumerate(names)]
        return Section("S", "", exhibits[:2], {"more": exhibits[2:]})

    sections = with_own_names([section("a", "b", "a"), section("a-2", "a", "c")])
    assert [exhibit.name for own in sections for exhibit in own.all()] == ["a", "b", "a-2", "a-2-2", "a-3", "c"]
    assert [exhibit.title for exhibit in sections[0].all()] == ["a 0", "b 1", "a 2"]
