"""What `predict` reads: rows without labels, and prompts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.helpers.bad_inputs import ANY_FILE, JSON_FILE, TEXT_FILE, WEIGHTS_FILE, Case, Make, Materials, spoilt_files
from tests.helpers.bad_inputs.folders import RUN
from tests.helpers.bad_inputs.rows import FORMATS, LONG, write

_ROWS: list[dict[str, Any]] = [{"id": n, "sentence": f"a good film {n}"} for n in range(20)]
_ANSWERS = {
    "without an answer": (b"", "{}", ("out.jsonl.part.json", "gone")),
    "damaged": (b"", "{", ("out.jsonl.part.json",)),
    "of counts below 0": (b"", '{"rows": -1}', ("out.jsonl.part.json", "counts")),
    "of other prompts": (b"{}\n", '{"rows": 1, "bytes": 3, "made_by": {}}', ("out.jsonl.part", "prompts")),
    "of another type": (b"{}\n", '{"rows": "1"}', ("out.jsonl.part.json", "rows")),
}
"""What an interrupted prediction may seem to have left: answers, the note on them, and what is said."""


def _asked(materials: Materials, form: str, *flags: str) -> Make:
    def make(folder: Path) -> list[str]:
        shutil.copytree(materials.run, folder / "r")
        write(folder / f"rows.{form}", _ROWS)
        return ["predict", "--prompts=r", f"--input=rows.{form}", "--output=out.jsonl", *flags]

    return make


def _content(good: Make, name: str, content: bytes) -> Make:
    def make(folder: Path) -> list[str]:
        line = good(folder)
        (folder / name).write_bytes(content)
        return line

    return make


_CONTENTS: dict[str, dict[str, tuple[bytes, tuple[str, ...]]]] = {
    "jsonl": {
        "a list": (b'{"sentence": "a"}\n[1]\n', (":2",)),
        "no text": (b'{"text": "a"}\n', (":1", "sentence")),
        "a number": (b'{"sentence": 3}\n', (":1", "sentence")),
        "nan": (b'{"sentence": NaN}\n', (":1", "sentence")),
        "half a pair": (b'{"sentence": "\\ud800"}\n', (":1", "sentence")),
        "digits": (b'{"sentence": ' + LONG.encode() + b"}\n", (":1",)),
        "ten million letters": (b'{"sentence": "' + b"a" * 10_000_000 + b'"}\n', (":1", "10,000,000")),
        "a line without an end": (b'{"sentence": "' + b"a" * 40_000_000, (":1", "16 MiB")),
        "empty": (b'{"sentence": " "}\n', (":1", "sentence")),
    },
    "csv": {
        "header alone": (b"sentence\n", ("rows",)),
        "semicolons": (b"sentence;id\na;1\n", (":1",)),
        "ragged": (b"sentence,id\na,1\nb\n", (":3",)),
        "open quote": (b'sentence,id\n"a,1\nb,2\n', (":2",)),
        "a column twice": (b"sentence,sentence\na,b\n", ("sentence",)),
        "no text": (b"text,id\na,1\n", (":2", "sentence")),
    },
    "tsv": {"commas": (b"sentence,id\na,1\n", ("sentence",)), "ragged": (b"sentence\tid\na\n", (":2",))},
    "parquet": {"csv inside": (b"sentence\na\n", ("Parquet",)), "magic alone": (b"PAR1", ("Parquet",))},
}


def cases(materials: Materials) -> Iterator[Case]:
    """Bad rows, prompts, lines, and leftovers of a prediction."""
    for form, contents in _CONTENTS.items():
        good = _asked(materials, form)
        for way, (content, wanted) in contents.items():
            make = _content(good, f"rows.{form}", content)
            yield Case(f"predict/{form}: {way}", make, (f"rows.{form}", *wanted))
        ways = [ANY_FILE] if form == "parquet" else [ANY_FILE, TEXT_FILE]
        yield from spoilt_files("predict", f"rows.{form}", good, *ways)
    good = _asked(materials, "jsonl")
    yield from spoilt_files("predict", f"r/prompts/{RUN}/manifest.json", good, TEXT_FILE, JSON_FILE)
    yield from spoilt_files("predict", f"r/prompts/{RUN}/prompts.safetensors", good, ANY_FILE, WEIGHTS_FILE)
    for way, (answers, note, wanted) in _ANSWERS.items():
        resumed = _content(_asked(materials, "jsonl", "--resume"), "out.jsonl.part.json", note.encode())
        if way == "without an answer":
            resumed = _content(_asked(materials, "jsonl", "--resume"), "out.jsonl.part", answers)
        elif answers:
            resumed = _content(resumed, "out.jsonl.part", answers)
        yield Case(f"predict/a note {way}", resumed, wanted)
    for flag, wanted in {
        "--task=toyy": ("toyy", "toy"),
        "--run=spp": ("spp", RUN),
        "--copy=idd": ("rows.jsonl:1", "idd"),
        "--copy=row": ("--copy",),
        "--batch-size=0": ("batch_size",),
        "--batch-size=1.5": ("--batch-size",),
        "--output=rows.jsonl": ("rows.jsonl",),
        "--output=nowhere/a.jsonl": ("nowhere",),
        "--output=a.txt": ("a.txt", ".jsonl"),
        "--output=a\0.csv": ("--output",),
        "--prompts=nowhere": ("nowhere",),
        "--model=nowhere": ("nowhere",),
        "--dtype=fp61": ("fp61",),
        "--shoots=3": ("--shoots",),
    }.items():
        yield Case(f"predict/{flag!r}", _asked(materials, "jsonl", flag), wanted)


def sound(materials: Materials) -> Iterator[Case]:
    """Good rows of each format."""
    for form in FORMATS:
        yield Case(f"predict/{form}", _asked(materials, form, "--scores", "--copy=id"), ())
