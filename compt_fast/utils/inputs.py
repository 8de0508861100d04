"""Files and values that come from outside: read in bounds, so that no file hangs or crashes a command.

Only regular files are opened, up to a size; text is UTF-8; TOML, YAML and JSON nest and count only so
far. All that is wrong is an `InputError` that begins with the file.
"""

from __future__ import annotations

import json
import os
import stat
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from compt_fast.utils.errors import InputError, shown, unknown

SETTINGS = 2**17  # bytes of what people write by hand: TOML and YAML, whose readers are slow
RECORDS = 2**28  # bytes of JSON, which programs write
_MOST_DOTS = 500  # in a line of TOML
_MOST_BITS = 128  # of a whole number: tokenizers say 10**30 for "no limit"
DEEPEST = 32  # tables and lists within each other
_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes, on Linux and macOS alike or longer
T = TypeVar("T")


def check_path(text: str | Path, where: str) -> None:
    """Raise `InputError` that begins with `where` for what no file can be called."""
    data = os.fsencode(text)
    if b"\0" in data:
        raise InputError(f"{where}: {shown(str(text))} holds a NUL character, which no path can")
    longest = max(map(len, data.split(b"/")))
    if longest > _LONGEST_NAME or len(data) > _LONGEST_PATH:
        raise InputError(
            f"{where}: {shown(str(text))} is too long: a path has up to {_LONGEST_PATH} bytes, and each name in it "
            f"up to {_LONGEST_NAME}"
        )


def check_file(path: Path, limit: int) -> None:
    """Raise `InputError` unless `path` is a regular file of at most `limit` bytes that can be read."""
    os.close(_open(path, limit))


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes; `InputError` for anything else."""
    with os.fdopen(_open(path, limit), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise InputError(f"{path}: grows while it is read; it must stay below {_size(limit)}")
    return data


def _open(path: Path, limit: int) -> int:
    check_path(path, "file")
    try:
        # Without O_NONBLOCK a pipe that nobody writes to would be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    status = os.fstat(handle)
    problem = ""
    if stat.S_ISDIR(status.st_mode):
        problem = "a folder, where a file belongs"
    elif not stat.S_ISREG(status.st_mode):
        problem = "a pipe, socket or device; only regular files are read"
    elif status.st_size > limit:
        problem = f"{_size(status.st_size)} large, where at most {_size(limit)} are read"
    if problem:
        os.close(handle)
        raise InputError(f"{path}: {problem}")
    return handle


def _size(count: int) -> str:
    power = 0 if count < 2**10 else 1 if count < 2**20 else 2 if count < 2**30 else 3
    return f"{count / 2 ** (10 * power):,.0f} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"


def read_text(path: Path, limit: int) -> str:
    """The text of a UTF-8 file, without a byte order mark; `InputError` that names file and line."""
    return decoded(read_bytes(path, limit), str(path))


def decoded(data: bytes, name: str, first: int = 1) -> str:
    """The text of UTF-8 that begins with the line `first` of the file `name`, without its byte order mark.

    Raises `InputError` that names file and line.
    """
    try:
        text, place = data.decode("utf-8-sig" if first == 1 else "utf-8"), data.find(b"\0")
        if place < 0:
            return text
        problem = "a NUL byte, which no text file has"
    except UnicodeDecodeError as error:
        place, problem = error.start, f"not UTF-8 (byte {data[error.start]:#04x})"
    raise InputError(f"{name}:{data.count(10, 0, place) + first}: {problem}; save the file as UTF-8")


def read_document(path: Path) -> Any:
    """What a `.toml`, `.yaml`, `.yml` or `.json` file holds.

    No key stands in it twice, it nests at most `DEEPEST` deep, and its whole numbers have up to `_MOST_BITS` bits.
    Raises `InputError` that begins with the file.
    """
    if path.suffix not in _READERS:
        raise InputError(f"{path}: must end in .toml, .yaml, .yml or .json")
    limit = RECORDS if path.suffix == ".json" else SETTINGS
    return parse(path.suffix, read_text(path, limit), str(path))


def parse(suffix: str, text: str, where: str) -> Any:
    """As `read_document`, of a text; errors begin with `where`."""
    kind = suffix.removeprefix(".")
    try:
        content = _READERS[suffix](text)
    except RecursionError:
        raise InputError(f"{where}: nests more than {DEEPEST} deep") from None
    except (ValueError, AttributeError, yaml.YAMLError) as error:  # PyYAML trips over some tags
        said = " ".join(str(error).split())
        raise InputError(f"{where}: not well-formed {kind}: {said[:300]}") from None
    _check_bounds(content, where)
    return content


def _check_bounds(content: Any, where: str) -> None:
    """Values that later code, or a message that quotes them, could stumble over."""
    level, depth = [content], 0
    while level:
        if depth > DEEPEST:
            raise InputError(f"{where}: nests more than {DEEPEST} deep")
        inner: list[Any] = []
        for value in level:
            kind = type(value)
            if kind is dict:
                inner.extend(value.values())
            elif kind in (list, set, tuple):
                inner.extend(value)
            elif kind is int and value.bit_length() > _MOST_BITS:
                place = ": ".join([where, *_keys(content, value)])
                raise InputError(f"{place}: a whole number has {value.bit_length()} bits; they go up to {_MOST_BITS}")
        level, depth = inner, depth + 1


def _keys(content: Any, value: int) -> list[str]:
    """The keys under which a value stands in a content of bounded depth."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, own in inner:
        if own is value:
            return [str(key)]
        if below := _keys(own, value):
            return [str(key), *below]
    return []


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused where a key stands twice."""
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} stands there twice")
    return content


class _Yaml(yaml.SafeLoader):
    """YAML without aliases, whose content can be exponentially larger than its text, or doubled keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(
                None, None, f"found the alias *{event.anchor}; write out what it stands for", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the key {shown(key.value)} stands there twice; keep one"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _toml(text: str) -> Any:
    # tomllib takes minutes for a key of ten thousand parts.
    if any(line.count(".") > _MOST_DOTS for line in text.splitlines()):
        raise ValueError(f"a line has more than {_MOST_DOTS} dots")
    return tomllib.loads(text)


_READERS: dict[str, Callable[[str], Any]] = {
    ".toml": _toml,
    ".yaml": lambda text: yaml.load(text, Loader=_Yaml),
    ".yml": lambda text: yaml.load(text, Loader=_Yaml),
    ".json": lambda text: json.loads(text, object_pairs_hook=_distinct),
}


def read_object(path: Path, what: str) -> dict[str, Any]:
    """The object in the JSON file `path`, of which messages say that it is not `what`."""
    content = read_document(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: not {what}: a JSON {type(content).__name__} where an object {{...}} belongs")
    return content


def dataclass_from(kind: type[T], content: Any, where: str) -> T:
    """An instance of a dataclass of plain fields from an object of a file.

    Raises `InputError` that names `where` and the key that is unknown, missing or of another type.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: {shown(content)} is no object of keys and values")
    hints = typing.get_type_hints(kind)
    own = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for key in content:
        if key not in own:
            raise unknown(f"key in {where}:", str(key), own)
    for key, field in own.items():
        if key in content:
            check_type(content[key], hints[key], f"{where}: {key}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{where}: {key} is missing")
    try:
        return kind(**content)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def check_type(value: Any, hint: Any, where: str) -> None:
    """Raise `InputError` that begins with `where` unless `value` is of a plain type `hint`.

    A bool is no number, a whole number is also a `float`, and no number is NaN or infinite.
    """
    kinds = hint.__args__ if isinstance(hint, types.UnionType) else (hint,)
    kinds = tuple(typing.get_origin(kind) or kind for kind in kinds)
    if float in kinds and type(value) is int:
        return
    if type(value) not in kinds or (isinstance(value, float) and not -float("inf") < value < float("inf")):
        names = {str: "a text", int: "a whole number", float: "a finite number", bool: "true or false"}
        names |= {dict: "an object", list: "a list", type(None): "null"}
        wanted = " or ".join(names.get(kind, kind.__name__) for kind in kinds)
        raise InputError(f"{where} must be {wanted}, not {shown(value)}")
