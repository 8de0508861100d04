"""Tables as a reader, a spreadsheet and Markdown get them."""

from __future__ import annotations

import csv
import io

from compt_fast.analysis.exhibits import Exhibit, Section, Table, with_own_names

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


def test_no_text_becomes_a_formula_of_a_spreadsheet() -> None:
    texts = ["=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "plain", "-", "-18.3 ± 33.1", "-18.3"]
    table = Table(["=head", "n"], [[text, -1.5] for text in texts])
    heads, *rows = csv.reader(io.StringIO(table.csv()))
    assert heads == ["'=head", "n"]
    assert [row[0] for row in rows] == [f"'{text}" for text in texts[:5]] + texts[5:]
    assert {row[1] for row in rows} == {"-1.5"}, "a number is one"
    assert table.texts()[0][0] == "=1+1" and "| =1+1 |" in table.markdown()


def test_a_line_break_does_not_end_a_row_of_markdown() -> None:
    assert Table(["a"], [["one\ntwo"]]).markdown().splitlines()[-1] == "| one two |"


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
