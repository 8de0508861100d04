"""Files and values that come from outside are read in bounds."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from compt_fast.utils.errors import InputError
from compt_fast.utils.inputs import (
    DEEPEST,
    check_path,
    check_type,
    dataclass_from,
    parse,
    read_bytes,
    read_document,
    read_text,
)

LIMIT = 1000


def test_only_regular_files_in_bounds_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * LIMIT)
    assert read_bytes(path, LIMIT) == b"x" * LIMIT
    with pytest.raises(InputError, match=re.escape(f"{path}: 1,000 bytes large, where at most 999 bytes are read")):
        read_bytes(path, LIMIT - 1)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, problem in {
        "pipe": "a pipe, socket or device",
        "loop": "cannot be read",
        "": "a folder, where a file belongs",
        "none": "cannot be read (No such file",
    }.items():
        with pytest.raises(InputError, match=re.escape(problem)):
            read_bytes(tmp_path / name, LIMIT)
    with pytest.raises(InputError, match="/dev/zero: a pipe, socket or device"):
        read_bytes(Path("/dev/zero"), LIMIT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\xff\n", ":2: not UTF-8 .byte 0xff.; save the file as UTF-8"),
        (b"a\nb\n\0", ":3: a NUL byte"),
        ("text".encode("utf-16"), ":1: not UTF-8"),
    ],
)
def test_text_that_is_no_utf8(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_text(tmp_path / "a", LIMIT)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfseeds = 1")
    assert read_text(tmp_path / "a", LIMIT) == "seeds = 1"


@pytest.mark.parametrize(
    ("text", "problem"),
    [("a\0b", "holds a NUL character"), ("a/" + "b" * 256, "is too long"), ("a/" * 2100, "is too long")],
)
def test_what_no_file_can_be_called(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=f"--out: .*{problem}"):
        check_path(text, "--out")
    check_path("\u00e4" * 127 + "/b", "--out")


NESTED = {
    ".json": lambda depth: '{"a": ' + "[" * depth + "]" * depth + "}",
    ".toml": lambda depth: "a = " + "[" * depth + "]" * depth,
    ".yaml": lambda depth: "a: " + "[" * depth + "]" * depth,
}


@pytest.mark.parametrize("suffix", NESTED)
def test_depth_is_bounded(suffix: str) -> None:
    assert parse(suffix, NESTED[suffix](DEEPEST - 1), "file")
    for depth in (DEEPEST + 1, 20_000):
        with pytest.raises(InputError, match=f"file: nests more than {DEEPEST} deep"):
            parse(suffix, NESTED[suffix](depth), "file")


@pytest.mark.parametrize(
    ("suffix", "text", "problem"),
    [
        (".yaml", "a: &a [1]\nb: *a", "found the alias .a; write out what it stands for"),
        (".yaml", "a: 1\na: 2", "the key 'a' stands there twice"),
        (".yaml", "a:\n  b: 1\n  b: 2", "the key 'b' stands there twice"),
        (".yaml", "a: !!timestamp x", "not well-formed yaml"),
        (".json", '{"a": {"b": 1, "b": 2}}', "the key 'b' stands there twice"),
        (".json", '{"a": ' + "9" * 5000 + "}", "Exceeds the limit"),
        (".json", '{"a": ' + "9" * 4000 + "}", "a whole number has 13288 bits"),
        (".toml", "a = 0x" + "f" * 10_000, "a whole number has 40000 bits"),
        (".toml", "a" + ".a" * 60_000 + " = 1", "a line has more than 500 dots"),
    ],
)
def test_documents_that_are_refused(suffix: str, text: str, problem: str) -> None:
    with pytest.raises(InputError, match=f"file: .*{problem}"):
        parse(suffix, text, "file")


def test_documents_are_known_by_their_ending(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("a: [1, 2]")
    assert read_document(tmp_path / "a.yml") == {"a": [1, 2]}
    with pytest.raises(InputError, match="a.txt: must end in .toml, .yaml, .yml or .json"):
        read_document(tmp_path / "a.txt")


@dataclass(frozen=True)
class Plain:
    name: str
    count: int | None
    rate: float = 0.5
    on: bool = False
    parts: list[str] = field(default_factory=list)


def test_a_dataclass_is_made_of_fields_of_its_types() -> None:
    assert dataclass_from(Plain, {"name": "a", "count": None, "rate": 1}, "file") == Plain("a", None, 1)
    for content, problem in (
        ({"name": "a", "count": 1, "size": 2}, "unknown key in file: 'size'"),
        ({"name": "a"}, "file: count is missing"),
        ({"name": 1, "count": 1}, "file: name must be a text, not 1"),
        ({"name": "a", "count": True}, "file: count must be a whole number or null, not True"),
        ({"name": "a", "count": 1.0}, "file: count must be a whole number or null, not 1.0"),
        ({"name": "a", "count": 1, "rate": float("nan")}, "file: rate must be a finite number, not nan"),
        ({"name": "a", "count": 1, "on": 1}, "file: on must be true or false, not 1"),
        ({"name": "a", "count": 1, "parts": "a"}, "file: parts must be a list, not 'a'"),
        ([1], r"file: \[1\] is no object"),
    ):
        with pytest.raises(InputError, match=problem):
            dataclass_from(Plain, content, "file")


def test_long_values_are_shortened() -> None:
    long: Any = ["x" * 10_000]
    with pytest.raises(InputError) as caught:
        check_type(long, str, "key")
    assert len(str(caught.value)) < 200 and "10,004 characters" in str(caught.value)
