"""The page and the files beside it: whole, well-formed, self-contained, small."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from compt_fast.analysis.exhibits import Exhibit, Section, Table
from compt_fast.analysis.page import write_report
from compt_fast.utils.errors import InputError

VOID = {"meta", "br", "hr", "img", "link", "input", "col", "wbr"}
TITLES = [
    "Search",
    "Results",
    "Methods compared",
    "Shots",
    "Number of source prompts",
    "Learning rates",
    "Learned against constant source weights",
    "Gates: fixed against learned",
    "Task prefix",
    "Label words",
    "A task more",
    "Router weights",
    "Target-source similarity",
    "Weighted similarity to source prompts",
    "Task similarity",
    "Masking",
    "Confusion by masking",
    "Stored prompts",
]


class Strict(HTMLParser):
    """Fails on tags that do not nest, ids that stand twice, and addresses that leave the page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.counts: dict[str, int] = {}
        self.figures: dict[str, set[str]] = {}
        self.headings: list[str] = []
        self._figure = ""
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> closes itself outside of a picture"
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> where {self.open[-3:]} are open"
        self.open.pop()
        self._figure = "" if tag == "figure" else self._figure

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> says {names}"
        for name, value in attrs:
            if name == "id":
                assert value
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "data", "action", "srcset"):
                assert value and value.startswith("#"), f"<{tag} {name}={value}> leaves the page"
                self.links.append(value[1:])
        if tag == "figure":
            self._figure = str(dict(attrs)["id"])
            self.figures[self._figure] = set()
        elif self._figure:
            self.figures[self._figure].add(tag)


@pytest.fixture(scope="module")
def text(whole: Path) -> str:
    return (whole / "index.html").read_text(encoding="utf-8")


def test_every_section_is_there_and_no_picture_is_missing(text: str, whole: Path) -> None:
    page = Strict(text)
    assert page.headings[: len(TITLES)] == TITLES
    assert len(page.figures) == len(set(page.figures))
    for name, tags in page.figures.items():
        assert {"h3", "p", "table"} <= tags, name
        drawn = (whole / f"{name}.svg").exists()
        assert ("svg" in tags) == drawn == (whole / f"{name}.png").exists(), name
    assert sum("svg" in tags for tags in page.figures.values()) == len(list(whole.glob("*.png"))) > 30


def test_the_page_needs_nothing_else_and_is_small(text: str) -> None:
    page = Strict(text)
    doubled = {name for name in page.ids if page.ids.count(name) > 1}
    assert not doubled and set(page.links) <= set(page.ids)
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link|<iframe", text)
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert len(text.encode()) < 5_000_000
    assert '<html lang="en-GB">' in text and 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text and "@media print" in text


def test_sentences_are_whole_and_differ(text: str) -> None:
    said = re.findall(r"<figcaption>\s*<h3>(.*?)</h3>\s*<p>(.*?)</p>", text)
    assert len(said) > 30
    for title, sentence in said:
        assert title and sentence[0].isupper() | sentence[0].islower() and sentence.endswith((".", ".)")), sentence
        assert not re.search(r"\bnan\b|None|inf\b|\{|\}|  ", sentence), sentence
        assert re.search(r"\d", sentence), f"nothing of the data in: {sentence}"
    assert len({sentence for _, sentence in said}) > len(said) / 2  # folders that were made alike say alike


def test_strings_that_a_model_wrote_are_text_and_no_markup(text: str) -> None:
    assert "some <b>words" not in text and "some &lt;b&gt;words" in text


def test_each_exhibit_has_its_table_beside_it(whole: Path, text: str) -> None:
    for name in Strict(text).figures:
        rows = list(csv.reader((whole / f"{name}.csv").open(encoding="utf-8")))
        assert len(rows) > 1 and len({len(row) for row in rows}) == 1, name
        lines = (whole / f"{name}.md").read_text(encoding="utf-8").splitlines()
        assert lines[0].endswith((".", ".)")) and lines[2].startswith("| ") and len(lines) >= len(rows) + 4


def exhibit(name: str) -> Exhibit:
    return Exhibit(name, "a <title>", "It says 3.", "percent", Table(["a"], [["<b>"]]))


def test_what_was_missing_and_what_would_add_sections_stands_at_the_end(tmp_path: Path) -> None:
    sections = [Section("One", "Intro.", [exhibit("one")])]
    page = write_report(tmp_path, sections, title="T", about=["made of"], missing=["run <x>"], absent="shots (--shots)")
    text = page.read_text(encoding="utf-8")
    Strict(text)
    assert "a &lt;title&gt;" in text and "run &lt;x&gt;" in text and "shots (--shots)" in text
    assert text.index("One") < text.index("run &lt;x&gt;") < text.index("shots (--shots)")
    bare = write_report(tmp_path, sections, title="T", about=[], missing=[], absent="").read_text(encoding="utf-8")
    assert "Missing" not in bare and "Not in this report" not in bare


def test_exhibits_of_one_name_are_all_written(tmp_path: Path) -> None:
    sections = [Section("One", "Intro.", [exhibit("one"), exhibit("one")])]
    page = write_report(tmp_path, sections, title="T", about=[], missing=[], absent="")
    assert list(Strict(page.read_text(encoding="utf-8")).figures) == ["one", "one-2"]
    assert {path.name for path in tmp_path.glob("*.csv")} == {"one.csv", "one-2.csv"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/report: cannot be written"):
        write_report(tmp_path / "file" / "report", [], title="T", about=[], missing=[], absent="")
