"""Rows of a stream answered into a file, or printed, a part after another; what a kill leaves can be gone on with.

Beside the file FILE that is to be, FILE.part holds the answers so far and FILE.part.json how far they are whole, with a
hash of the rows that they answer. Parts are of the same rows however often the work was interrupted, and so are the
batches in them: the file is the same to the last byte.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from compt_fast.evaluation.predictions import FORMATS
from compt_fast.prediction.predictor import AHEAD, Answer, Predictor
from compt_fast.prediction.row_files import RowFile
from compt_fast.prediction.rows import Placed
from compt_fast.prompts.tensors import sha256_of
from compt_fast.utils.errors import InputError
from compt_fast.utils.files import clean, put, write_json
from compt_fast.utils.inputs import dataclass_from, read_object
from compt_fast.utils.locks import locked

OWN = ("row", "task", "label", "text", "scores", "error")
"""Columns of the answers: `row` counts from 1; `scores` are there where they are asked for."""
_BROKEN_OFF = "an interrupted prediction left it"


@dataclass(frozen=True)
class Way:
    """How rows are answered: `task` and `scores` as in `Predictor.predict`; `copied` are columns of the rows that stand
    in their answers too; with `keep_going` a row that cannot be read is answered by what is wrong with it.
    """

    task: str | None = None
    scores: bool = False
    batch_size: int = 128
    keep_going: bool = False
    copied: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for column in self.copied:
            if column in OWN:
                raise InputError(f"--copy {column}: a column of the answers is called so; rename that of the rows")

    @property
    def columns(self) -> list[str]:
        """The columns of the answers."""
        return [*self.copied, *(name for name in OWN if name != "scores" or self.scores)]


@dataclass(frozen=True)
class Done:
    """How far answers are whole: `failed` of so many `rows`, in so many `bytes` of the file, and the hash of the rows.

    `made_by` is what else they depend on.
    """

    rows: int = 0
    failed: int = 0
    bytes: int = 0
    sha256: str = ""
    made_by: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.rows, self.failed, self.bytes) < 0:
            raise InputError("rows, failed and bytes are counts, from 0")


class Out(Protocol):
    """Where answers go."""

    done: Done

    def add(self, records: Sequence[dict[str, Any]], done: Done) -> None:
        """The answers of a part, with which all is `done`."""


def answer_all(
    predictor: Predictor, rows: RowFile, out: Out, way: Way, after_part: Callable[[Done], None] = lambda done: None
) -> Done:
    """Answer the rows that `out` has no answers of, part by part.

    Raises `InputError` for a row that cannot be read, unless the way is to keep going, and where the rows that are
    answered already are not the first of `rows`.
    """
    digest = hashlib.sha256()
    source, done = iter(rows), out.done
    for placed in islice(source, done.rows):
        digest.update(repr(placed.row).encode("utf-8", "surrogatepass"))
    if done.rows and digest.hexdigest() != done.sha256:
        raise InputError(
            f"{rows.name}: its first {done.rows:,} rows are not those that were answered before; put them back, or "
            "remove the .part files beside the output, and begin anew"
        )
    while part := list(islice(source, AHEAD)):
        for placed in part:
            digest.update(repr(placed.row).encode("utf-8", "surrogatepass"))
        part = [_with_copied(placed, way.copied) for placed in part]
        answers = list(
            predictor.stream(part, way.task, scores=way.scores, batch_size=way.batch_size, keep_going=way.keep_going)
        )
        numbered = enumerate(zip(part, answers, strict=True), start=done.rows + 1)
        records = [_record(number, placed, answer, way) for number, (placed, answer) in numbered]
        failed = done.failed + sum(answer.error is not None for answer in answers)
        out.add(records, Done(done.rows + len(part), failed, 0, digest.hexdigest()))
        done = out.done
        after_part(done)
    return done


def _with_copied(placed: Placed, copied: Sequence[str]) -> Placed:
    """A row, or that it lacks a column that is to stand beside its answer."""
    for column in copied if isinstance(placed.row, dict) else ():
        if column not in placed.row:
            return Placed(InputError(f"{placed.where}: no column {column!r} to copy"), placed.where)
    return placed


def _record(number: int, placed: Placed, answer: Answer, way: Way) -> dict[str, Any]:
    row = placed.row if isinstance(placed.row, dict) else {}
    own = {"row": number} | asdict(answer)
    return {column: row.get(column) if column in way.copied else own[column] for column in way.columns}


class Printed:
    """Answers on standard output, as JSON lines."""

    def __init__(self) -> None:
        self.done = Done()
        self._ascii = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"

    def add(self, records: Sequence[dict[str, Any]], done: Done) -> None:
        """Print them, at once."""
        print("\n".join(_json_line(record, self._ascii) for record in records), flush=True)
        self.done = done


class AnswerFile:
    """Answers on their way into a file."""

    def __init__(self, path: Path, done: Done, columns: Sequence[str]) -> None:
        self.path, self.part, self._note = path, *_beside(path)
        self.done = done
        self._columns = columns
        write_json(self._note, asdict(done))  # before the file, so that none is there whose answers are of nobody
        self._file = self.part.open("r+b" if done.rows else "wb")
        self._file.truncate(done.bytes)
        self._file.seek(done.bytes)

    def add(self, records: Sequence[dict[str, Any]], done: Done) -> None:
        """Write them, and then that they are there."""
        if self.path.suffix == ".csv":
            text = io.StringIO(newline="")
            table = csv.DictWriter(text, self._columns)
            if not self.done.rows:
                table.writeheader()
            table.writerows(_flat(record) for record in records)
            written = text.getvalue()
        else:
            written = "".join(f"{_json_line(record, False)}\n" for record in records)
        # of what Unicode cannot write, halves of surrogate pairs, JSON's own escape
        self._file.write(written.encode("utf-8", "backslashreplace"))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done = Done(done.rows, done.failed, self._file.tell(), done.sha256, self.done.made_by)
        write_json(self._note, asdict(self.done))

    def finish(self) -> None:
        """Let the answers be the file."""
        self._file.close()
        put(self.part, self.path)
        self._note.unlink()

    def close(self) -> None:
        """Leave what is there, if it is anything."""
        self._file.close()
        if not self.done.rows:
            self.part.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)


def _beside(path: Path) -> tuple[Path, Path]:
    """The file of the answers so far, and the note on it."""
    return path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    return {name: _json(value) if isinstance(value, dict | list) else value for name, value in record.items()}


def _json_line(record: dict[str, Any], ascii_only: bool) -> str:
    said = {name: value for name, value in record.items() if name != "error" or value is not None}
    return _json(said, ascii_only)


def _json(value: Any, ascii_only: bool = True) -> str:
    """A value as JSON; what it has no word for, as of a column that is copied, becomes text, and NaN null."""
    return json.dumps(_finite(value), ensure_ascii=ascii_only, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def made_by(predictor: Predictor, way: Way) -> dict[str, str]:
    """What answers depend on beside the rows, for the file that is gone on with: each by a name for messages."""
    prompts = {
        name: (sha256_of(one.prompts.tensors), one.index, str(one.text), str(one.task))
        for name, one in sorted(predictor.prompts.items())
    }
    trunk = predictor.trunk
    return {
        "prompts": hashlib.sha256(repr(prompts).encode()).hexdigest(),
        "trunk": trunk.fingerprint(),
        "engine, device and dtype": f"{type(trunk).__name__} {trunk.device.type} {trunk.dtype}",
        "--task": str(way.task),
        "--batch-size": f"{way.batch_size}, of {AHEAD}",
        "columns": ", ".join(way.columns),
    }


def check_output(path: Path, rows: Path | None) -> None:
    """Raise `InputError` for an output that is of none of `FORMATS`, cannot be there, or is the file of the rows."""
    if path.suffix not in FORMATS:
        raise InputError(f"--output {path}: answers are written as {' or '.join(FORMATS)}, or printed (-)")
    if path.is_dir():
        raise InputError(f"--output {path}: a folder; name a file in it")
    if not path.parent.is_dir():
        raise InputError(f"--output {path}: there is no folder {path.parent}")
    if rows is not None and path.exists() and path.samefile(rows):
        raise InputError(f"--output {path}: the rows stand there (--input); name another file")


@contextmanager
def answer_file(path: Path, made: dict[str, str], columns: Sequence[str], resume: bool) -> Iterator[AnswerFile]:
    """The answers on their way to `path`, held for this process: begun, or with `resume` what is there gone on with, if
    anything is. The file is there when the block ends without an error.

    Raises `InputError` where other answers are on their way, or the same that are not to be gone on with.
    """
    part, note = _beside(path)
    busy = "wait until it ends, or name another --output"
    with locked(path.with_name(f"{part.name}.lock"), wait=False, busy=busy):
        clean(path.parent, {note.name}.__contains__)
        done = _left(path, made, resume)
        if done.rows and not part.exists():  # it died when all was there but for the end of the input
            os.replace(path, part)
        out = AnswerFile(path, done, columns)
        try:
            yield out
            out.finish()
        finally:
            out.close()


def _size(path: Path) -> int:
    """Bytes of a file; -1 where none is there."""
    return path.stat().st_size if path.exists() else -1


def _left(path: Path, made: dict[str, str], resume: bool) -> Done:
    """How far the answers are that a process left, if any did."""
    part, note = _beside(path)
    if not note.exists():
        if part.exists():
            raise InputError(f"{part}: {_BROKEN_OFF}, but {note.name} beside it is gone: remove it, and begin anew")
        return Done(made_by=made)
    if not resume:
        raise InputError(f"{part}: {_BROKEN_OFF}: go on with --resume, or remove it and {note.name}")
    done = dataclass_from(Done, read_object(note, "a note on answers"), str(note))
    for what, value in made.items() if done.rows else ():
        if done.made_by.get(what) != value:
            raise InputError(f"{part}: began with other {what}: give the same again, or remove it and {note.name}")
    if done.rows and not (_size(part) >= done.bytes or (_size(part) < 0 and _size(path) == done.bytes)):
        raise InputError(f"{part}: gone, or shorter than {note.name} says: remove both, and begin anew")
    return done if done.rows else Done(made_by=made)
