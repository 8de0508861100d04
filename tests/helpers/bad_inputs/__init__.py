"""Bad input for every command: families of things that are read, times ways in which they can be wrong.

A case writes its input into a folder of its own and returns the command line that reads it; the words
in `wanted` must stand in what is said of it. `SOUND` cases are the same inputs with nothing wrong, so
that what is refused is refused for its fault.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Make = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Case:
    """`make(folder)` writes the input into `folder`, where the command runs, and returns its line."""

    name: str
    make: Make
    wanted: tuple[str, ...]


@dataclass(frozen=True)
class Materials:
    """Good things to spoil: a model's folder, a run folder of `train`, and a prompt store."""

    model: Path
    run: Path
    store: Path


def bad_cases(materials: Materials) -> list[Case]:
    """All bad inputs, in a fixed order."""
    from tests.helpers.bad_inputs import exports, folders, models, predictions, rows, settings, spaces

    families = (settings, spaces, rows, models, folders, predictions, exports)
    return [case for family in families for case in family.cases(materials)]


def sound_cases(materials: Materials) -> list[Case]:
    """Good input of every family, of which nothing is said."""
    from tests.helpers.bad_inputs import exports, folders, models, predictions, rows, settings, spaces

    families = (settings, spaces, rows, models, folders, predictions, exports)
    return [case for family in families for case in family.sound(materials)]


def drawn(cases: list[Case], count: int, seed: int) -> list[Case]:
    """So many of the cases, each family in its share."""
    return sorted(random.Random(seed).sample(cases, min(count, len(cases))), key=lambda case: case.name)


LIMIT = 2**41  # bytes: more than any file may have


def _removed(path: Path) -> None:
    path.unlink()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _grown(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(LIMIT)


def _written(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def _changed(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(change(path.read_bytes()))

    return write


Spoil = Callable[[Path], None]
ANY_FILE: dict[str, Spoil] = {
    "removed": _removed,
    "folder": _folder,
    "pipe": _pipe,
    "device": _device,
    "loop": _loop,
    "dangling": _dangling,
    "grown": _grown,
    "empty": _written(b""),
    "noise": _written(random.Random(0).randbytes(4000)),
}
TEXT_FILE: dict[str, Spoil] = {
    "latin": _changed(lambda data: data[:20] + b"\xe9" + data[20:]),
    "utf-16": _changed(lambda data: data.decode().encode("utf-16")),
    "nul": _changed(lambda data: data + b"\n\0"),
}
JSON_FILE: dict[str, Spoil] = {
    "cut": _changed(lambda data: data[: len(data) // 2]),
    "list": _written(b"[1, 2]"),
    "number": _written(b"3"),
    "null": _written(b"null"),
    "deep": _written(b'{"a": ' + b"[" * 100_000),
    "nested": _written(b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}"),
    "digits": _written(b'{"a": ' + b"9" * 5000 + b"}"),
    "wide": _written(b'{"a": ' + b"9" * 4000 + b"}"),
    "doubled": _written(b'{"a": 1, "a": 2}'),
    "garbage": _changed(lambda data: data + b"}"),
}
WEIGHTS_FILE: dict[str, Spoil] = {
    "cut": _changed(lambda data: data[: len(data) // 2]),
    "short": _changed(lambda data: data[:-3]),
    "text": _written(b"not a tensor\n" * 20),
    "header": _changed(lambda data: (2**62).to_bytes(8, "little") + data[8:]),
    "pointer": _written(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"),
}


def spoilt_files(name: str, path: str, good: Make, *ways: dict[str, Spoil], also: tuple[str, ...] = ()) -> list[Case]:
    """The file `path` of what `good` writes, spoilt in each of the ways; it must be named."""

    def case(way: str, spoil: Spoil) -> Case:
        def make(folder: Path) -> list[str]:
            line = good(folder)
            spoil(folder / path)
            return line

        return Case(f"{name}/{Path(path).name}/{way}", make, (Path(path).name, *also))

    return [case(way, spoil) for kind in ways for way, spoil in kind.items()]


def edited_json(name: str, path: str, good: Make, keys: list[Any], values: dict[str, Any]) -> Iterator[Case]:
    """The value at `keys` of a JSON file replaced by each of `values`; file and last key must be named."""

    def case(way: str, value: Any) -> Case:
        def make(folder: Path) -> list[str]:
            line = good(folder)
            content = json.loads((folder / path).read_text())
            place = content
            for key in keys[:-1]:
                place = place[key]
            if value is GONE:
                del place[keys[-1]]
            else:
                place[keys[-1]] = value
            (folder / path).write_text(json.dumps(content))
            return line

        where = ".".join(map(str, keys))
        return Case(f"{name}/{Path(path).name}:{where}={way}", make, (Path(path).name, str(keys[-1])))

    return (case(way, value) for way, value in values.items())


class _Gone:
    pass


GONE = _Gone()
"""Stands for a key that is left out."""

NO_TEXT: dict[str, Any] = {"number": 3, "true": True, "list": ["a"], "object": {"a": 1}}
NO_WHOLE: dict[str, Any] = {
    "text": "3",
    "true": True,
    "list": [3],
    "object": {"a": 1},
    "half": 1.5,
    "nan": float("nan"),
    "wide": 10**60,
}
NO_NUMBER: dict[str, Any] = {"text": "3", "true": True, "list": [3], "object": {}, "nan": float("nan")}
NO_TABLE: dict[str, Any] = {"text": "a", "number": 3, "true": True, "list": []}
NO_SWITCH: dict[str, Any] = {"number": 1, "text": "yes", "list": [True], "object": {}}
