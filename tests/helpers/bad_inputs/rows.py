"""Files of rows: CSV, TSV, JSON lines and Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.helpers.bad_inputs import ANY_FILE, TEXT_FILE, Case, Make, Materials, spoilt_files
from tests.helpers.bad_inputs.settings import line

FORMATS = ("csv", "tsv", "jsonl", "parquet")
TEXT = "a good film"
LONG = "9" * 5000
_HEADS = {True: "score = {low = 0, high = 5, step = 1}", False: 'labels = ["bad", "good"]'}


def _rows(score: bool) -> list[dict[str, Any]]:
    return [{"sentence": f"{TEXT} {i}", "label": i % 6 if score else ("bad", "good")[i % 2]} for i in range(20)]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows in the format that the file's name says."""
    if path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            how: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {}
            writer = csv.writer(file, **how)
            writer.writerow(rows[0])
            writer.writerows(list(row.values()) for row in rows)


def _job(form: str, rows: list[dict[str, Any]], *, score: bool = False) -> Make:
    def make(folder: Path) -> list[str]:
        made = line(folder, task_file="own.toml")
        (folder / "own.toml").write_text(
            f'name = "own"\nfields = ["sentence"]\n{_HEADS[score]}\ndata = "rows.{form}"\n'
        )
        write(folder / f"rows.{form}", rows)
        return made

    return make


def _changed(score: bool, column: str, value: Any, form: str) -> list[dict[str, Any]]:
    """Good rows but for one cell of the fourth; in Parquet, whose columns have a type, of all."""
    rows = _rows(score)
    for row in rows if form == "parquet" else rows[3:4]:
        row[column] = value
    return rows


def _at(form: str) -> str:
    """Where the fourth row stands."""
    return f"rows.{form}:" + {"csv": "5", "tsv": "5", "jsonl": "4", "parquet": "1"}[form]


_CLASS_CELLS = ("", " ", "7", "\uff11", "0_1", "maybe", "nan", "-1", LONG, "bad\0", "1.0.0", "true")
_SCORE_CELLS = ("", " ", "nan", "inf", "-inf", "0_1", "\uff11", "\u0663", "1e999", LONG, "-1", "6", "x", "0x1", "1,5")
_VALUES: dict[str, Any] = {
    "true": True,
    "null": None,
    "list": [1],
    "object": {"a": 1},
    "wide": 10**30,
    "nan": float("nan"),
    "inf": float("inf"),
}
_WHAT = {True: "score", False: "label"}
_TEXT_CELLS = ("", "  ", "\u2003")
_TEXT_VALUES: dict[str, Any] = {
    "null": None,
    "number": 3,
    "true": True,
    "list": ["a"],
    "object": {"a": 1},
    "nul": "a\0",
}


def _cells() -> Iterator[Case]:
    for form in ("csv", "tsv", "jsonl"):
        for score, cells in ((False, _CLASS_CELLS), (True, _SCORE_CELLS)):
            for cell in cells:
                wanted = (f"rows.{form}:",) if "\0" in cell and form != "jsonl" else (_at(form),)
                rows = _changed(score, "label", cell, form)
                if form == "jsonl" and score:
                    rows = [row | {"label": str(row["label"])} for row in rows]
                yield Case(
                    f"rows/{form}: {'score' if score else 'label'} {cell[:9]!r}", _job(form, rows, score=score), wanted
                )
        for cell in _TEXT_CELLS:
            rows = _changed(False, "sentence", cell, form)
            yield Case(f"rows/{form}: text {cell!r}", _job(form, rows), (_at(form), "sentence"))
    for form in ("jsonl", "parquet"):
        for score in (False, True):
            for way, value in _VALUES.items():
                if form == "parquet" and way == "wide":
                    continue  # no such column
                rows = _changed(score, "label", value, form)
                yield Case(
                    f"rows/{form}: {'score' if score else 'label'} {way}", _job(form, rows, score=score), (_at(form),)
                )
        for way, value in _TEXT_VALUES.items():
            rows = _changed(False, "sentence", value, form)
            yield Case(f"rows/{form}: text {way}", _job(form, rows), (_at(form), "sentence"))
    surrogate = [row | {"sentence": "half \ud800"} for row in _rows(False)]
    yield Case("rows/jsonl: half a pair", _job("jsonl", surrogate), ("rows.jsonl:", "sentence"))
    for way, value in {"bytes": b"\xff", "complex": {"re": 1.0, "im": 2.0}}.items():
        for column in ("sentence", "label"):
            rows = _changed(False, column, value, "parquet")
            yield Case(f"rows/parquet: {column} {way}", _job("parquet", rows), ("rows.parquet",))


def _content(form: str, content: bytes) -> Make:
    def make(folder: Path) -> list[str]:
        made = _job(form, _rows(False))(folder)
        (folder / f"rows.{form}").write_bytes(content)
        return made

    return make


_WIDE = 60_000
_CONTENTS: dict[str, dict[str, tuple[bytes, tuple[str, ...]]]] = {
    "csv": {
        "60,000 columns": (",".join(f"c{i}" for i in range(_WIDE)).encode() + b"\n", ("columns",)),
        "60,000 cells": (b"sentence,label\na" + b",1" * _WIDE + b"\n", (":2",)),
        "a column twice": (b"sentence,sentence,label\na,b,bad\n", ("sentence",)),
        "header alone": (b"sentence,label\n", ("rows",)),
        "semicolons": (b"sentence;label\na;bad\n", ("sentence",)),
        "open quote": (b'sentence,label\n"a,bad\nb,good\n', (":2",)),
        "a long cell": (b"sentence,label\n" + b"a" * 200_000 + b",bad\n", (":2",)),
        "ragged": (b"sentence,label\na,bad\nb\n", (":3",)),
        "no label": (b"sentence,lable\na,bad\nb,good\n", ("label", "lable")),
        "no text": (b"text,label\na,bad\nb,good\n", ("sentence", "text")),
        "one row": (b"sentence,label\na,bad\n", ("row",)),
        "carriage returns": (b'sentence,label\r\ra,"b"c,d\r', ()),
    },
    "tsv": {
        "60,000 columns": ("\t".join(f"c{i}" for i in range(_WIDE)).encode() + b"\n", ("columns",)),
        "a column twice": (b"label\tlabel\na\tb\n", ("label",)),
        "commas": (b"sentence,label\na,bad\n", ("sentence",)),
        "ragged": (b"sentence\tlabel\na\n", (":2",)),
    },
    "jsonl": {
        "60,000 columns": (json.dumps({f"c{i}": 1 for i in range(_WIDE)}).encode(), ("columns",)),
        "other columns in each row": (b"".join(b'{"c%d": 1}\n' % i for i in range(20_000)), ("columns",)),
        "a key twice": (b'{"label": 1, "label": 2}\n', (":1", "label")),
        "a list": (b"[1, 2]\n", (":1",)),
        "a number": (b'{"sentence": "a", "label": 0}\n3\n', (":2",)),
        "an array over lines": (b'[\n{"sentence": "a", "label": 0}\n]\n', (":1",)),
        "deep": (b'{"a": ' + b"[" * 100_000 + b"\n", (":1",)),
        "nested": (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}\n", (":1",)),
        "digits": (b'{"sentence": "a", "label": ' + LONG.encode() + b"}\n", (":1",)),
        "cut": (b'{"sentence": "a", "label": 0}\n{"sentence": "b', (":2",)),
        "single quotes": (b"{'sentence': 'a'}\n", (":1",)),
        "blank lines": (b"\n\n\n", ()),
    },
    "parquet": {"csv inside": (b"sentence,label\na,bad\n", ()), "magic alone": (b"PAR1", ())},
}


def _doubled_parquet(folder: Path) -> list[str]:
    import pyarrow as pa
    from pyarrow import parquet

    made = _job("parquet", _rows(False))(folder)
    table = pa.Table.from_arrays([["a"], ["b"], ["bad"]], names=["sentence", "sentence", "label"])
    parquet.write_table(table, folder / "rows.parquet")
    return made


def _both(folder: Path) -> list[str]:
    """Two files that hold one split."""
    made = _job("csv", _rows(False))(folder)
    (folder / "own.toml").write_text('name = "own"\nfields = ["sentence"]\nlabels = ["bad", "good"]\ndata = "d"\n')
    (folder / "d").mkdir()
    for name in ("train.csv", "train.jsonl", "validation.csv"):
        write(folder / "d" / name, _rows(False))
    return made


def cases(materials: Materials) -> Iterator[Case]:
    """Bad cells, headers and files."""
    yield from _cells()
    for form, contents in _CONTENTS.items():
        for way, (content, wanted) in contents.items():
            yield Case(f"rows/{form}: {way}", _content(form, content), (f"rows.{form}", *wanted))
        ways = [ANY_FILE] if form == "parquet" else [ANY_FILE, TEXT_FILE]
        yield from spoilt_files("rows", f"rows.{form}", _job(form, _rows(False)), *ways)
    yield Case("rows/parquet: a column twice", _doubled_parquet, ("rows.parquet", "sentence"))
    yield Case("rows/two formats", _both, ("train.csv", "train.jsonl"))


def sound(materials: Materials) -> Iterator[Case]:
    """Good rows of each format, and a byte order mark, which is no fault."""
    for form in FORMATS:
        yield Case(f"rows/{form}", _job(form, _rows(False)), ())
        yield Case(f"rows/{form} of scores", _job(form, _rows(True), score=True), ())
    yield Case(
        "rows/mark", _content("csv", "\ufeffsentence,label\na,bad\nb,good\nc,bad\nd,good\ne,bad\nf,good\n".encode()), ()
    )
