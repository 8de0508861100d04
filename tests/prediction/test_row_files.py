"""Rows of files of any size: as those that are read whole, a part at a time, and what is wrong with each."""

from __future__ import annotations

import io
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from compt_fast.prediction.row_files import RowFile
from compt_fast.tasks.formats import read_columns
from compt_fast.utils.errors import InputError

ROWS = [
    {"sentence": "man sees\u2028dog", "id": "1"},
    {"sentence": 'a, "b"', "id": "2"},
    {"sentence": "é\\n", "id": "3"},
]


def jsonl(path: Path) -> None:
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS), encoding="utf-8-sig")


def table(path: Path) -> None:
    path.write_bytes(b'sentence,id\r\n"man sees\xe2\x80\xa8dog",1\r\n\r\n"a, ""b""",2\r\n"x\ny",3\r\n')


def tabbed(path: Path) -> None:
    path.write_text('sentence\tid\nman "sees\t1\ndog\t2\n')


def columnar(path: Path) -> None:
    parquet.write_table(pa.Table.from_pylist(ROWS * 1000), path, row_group_size=100)


@pytest.mark.parametrize(
    ("name", "write"), [("a.jsonl", jsonl), ("a.csv", table), ("a.tsv", tabbed), ("a.parquet", columnar)]
)
def test_rows_and_places_are_those_of_the_whole_file(name: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / name)
    whole = read_columns([tmp_path / name])
    source = RowFile(tmp_path / name)
    placed = list(source)
    assert [one.where for one in placed] == [whole.where(row) for row in range(whole.size)]
    assert [one.row for one in placed] == [
        {column: values[row] for column, values in whole.values.items()} for row in range(whole.size)
    ]
    assert source.done == source.total


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, b'{"a": 1}\n\n{"a": 2}')
    assert [(one.row, one.where) for one in RowFile(None)] == [
        ({"a": 1}, "standard input:1"),
        ({"a": 2}, "standard input:3"),
    ]
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="standard input is closed"):
        list(RowFile(None))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": ', "not well-formed json"),
        (b"[1]", "a JSON list; every line must be one object"),
        (b'{"a": 1, "a": 2}', "stands there twice"),
        (b'{"a": "\xe9"}', "not UTF-8 (byte 0xe9); save the file as UTF-8"),
        (b'{"a": "\0"}', "a NUL byte"),
    ],
)
def test_a_bad_line_of_json_is_one_row(line: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    first, bad, last = RowFile(path)
    assert (first.row, last.row, bad.where) == ({"a": 1}, {"a": 3}, f"{path}:2")
    assert isinstance(bad.row, InputError) and str(bad.row).startswith(f"{path}:2: ") and message in str(bad.row)


def test_a_row_of_a_table_with_other_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n1\n3,4\n")
    first, bad, last = RowFile(path)
    assert (first.row, last.row) == ({"a": "1", "b": "2"}, {"a": "3", "b": "4"})
    assert str(bad.row) == f"{path}:3: 1 cells where the header names 2 columns"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", ": no rows"),
        ("a.jsonl", b"\n \n", ": no rows"),
        ("a.csv", b"", ": empty; the first line must name the columns"),
        ("a.csv", b"a,b\n", ": no rows"),
        ("a.csv", b"a;b\n1;2\n", ":1: one column, 'a;b': its cells are separated by semicolons"),
        ("a.csv", b"a,a\n1,2\n", ":1: two columns are called 'a'"),
        ("a.csv", b'a,b\n1,"2', ":2: not CSV (unexpected end of data)"),
        ("a.csv", b"a,b\n1,2\n1,\xe9\n", ":3: not UTF-8 (byte 0xe9)"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), ":1: not UTF-8 (byte 0xff)"),
        ("a.csv", b"a,b\n1," + b"2" * 200_000, ":2: not CSV (field larger than field limit (131072))"),
        ("a.parquet", b"PAR1 and no more", ": not a whole Parquet file"),
        ("a.jsonl", b'{"a": "' + b"x" * 2**24, ":1: a line of more than 16 MiB"),
        ("a.json", b"{}", ": rows are read from files of jsonl, csv, tsv, parquet; one JSON object a line makes it"),
        ("a.txt", b"{}", ": rows are read from files of"),
    ],
)
def test_files_of_which_no_next_row_is_known(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as raised:
        list(RowFile(tmp_path / name))
    assert str(raised.value).startswith(f"{tmp_path / name}{message}")


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name, message in (("folder.csv", "a folder, where a file belongs"), ("gone.csv", "cannot be read")):
        with pytest.raises(InputError, match=message):
            RowFile(tmp_path / name)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_memory_does_not_grow_with_the_file(name: str, tmp_path: Path) -> None:
    path, text = tmp_path / name, "man sees dog " * 40
    if name == "a.parquet":
        with parquet.ParquetWriter(path, pa.schema([("sentence", pa.string())])) as file:
            for _ in range(20):
                file.write_table(pa.Table.from_pylist([{"sentence": text}] * 1000))
    else:
        line = json.dumps({"sentence": text}) if name == "a.jsonl" else text
        path.write_text("sentence\n" * (name == "a.csv") + f"{line}\n" * 20_000)
    rows = iter(RowFile(path))
    next(rows)
    tracemalloc.start()
    try:
        assert sum(1 for _ in rows) == 19_999
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20 < 20_000 * len(text)
    finally:
        tracemalloc.stop()
