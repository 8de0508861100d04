"""Rows of a file of any size, or of standard input, read as a stream: as much at a time as is answered at a time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from compt_fast.prediction.rows import Placed
from compt_fast.tasks.formats import check_cells, check_format, json_object, parquet_of, table_rows
from compt_fast.utils.errors import InputError
from compt_fast.utils.inputs import check_file, decoded

LONGEST_LINE = 2**24
"""Bytes of a line: what is in memory at a time stays bounded whatever the file holds."""


class RowFile:
    """The rows of a file of JSON lines, CSV, TSV or Parquet, or of JSON lines from standard input (no `path`).

    Iterated once, it gives every row with its place, `file:line` (Parquet: `file:row`), or what is wrong with it in the
    place of one that cannot be read. Raises `InputError` for a file that is none of these, or holds no row, and where
    it is not known where the next row begins. `done` of `total` (bytes, of Parquet rows; None of standard input) have
    been read.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.name = "standard input" if path is None else str(path)
        self.done = 0
        self.total: int | None = None
        if path is not None:
            check_format(path)
            check_file(path, sys.maxsize)

    def __iter__(self) -> Iterator[Placed]:
        rows = self._rows()
        first = next(rows, None)
        if first is None:
            raise InputError(f"{self.name}: no rows")
        yield first
        yield from rows

    def _rows(self) -> Iterator[Placed]:
        if self.path is None:
            if sys.stdin is None:
                raise InputError("standard input is closed; name a file")
            yield from self._objects(sys.stdin.buffer)
        elif self.path.suffix == ".parquet":
            yield from self._parquet(self.path)
        else:
            self.total = self.path.stat().st_size
            with self.path.open("rb") as file:
                yield from self._objects(file) if self.path.suffix == ".jsonl" else self._cells(self.path, file)

    def _lines(self, file: BinaryIO) -> Iterator[tuple[int, str | InputError]]:
        """Each line with its number and its end, or what is wrong with it."""
        number = 0
        while data := file.readline(LONGEST_LINE):
            number += 1
            self.done += len(data)
            if len(data) == LONGEST_LINE:  # and its end may be anywhere
                raise InputError(f"{self.name}:{number}: a line of more than {LONGEST_LINE // 2**20} MiB")
            try:
                yield number, decoded(data, self.name, number)
            except InputError as error:
                yield number, error

    def _objects(self, file: BinaryIO) -> Iterator[Placed]:
        for number, line in self._lines(file):
            where = f"{self.name}:{number}"
            if isinstance(line, InputError):
                yield Placed(line, where)
            elif line.strip():
                try:
                    yield Placed(json_object(line, where), where)
                except InputError as error:
                    yield Placed(error, where)

    def _cells(self, path: Path, file: BinaryIO) -> Iterator[Placed]:
        rows = table_rows(path, self._texts(file))
        _, header = next(rows)
        for number, cells in rows:
            where = f"{path}:{number}"
            try:
                check_cells(header, cells, where)
                yield Placed(dict(zip(header, cells, strict=True)), where)
            except InputError as error:
                yield Placed(error, where)

    def _texts(self, file: BinaryIO) -> Iterator[str]:
        """The lines of a table, in which a line that cannot be read leaves open where the next row begins."""
        for _, line in self._lines(file):
            if isinstance(line, InputError):
                raise line
            yield line

    def _parquet(self, path: Path) -> Iterator[Placed]:
        with parquet_of(path) as file:
            self.total = file.metadata.num_rows
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    self.done += 1
                    yield Placed(row, f"{path}:{self.done}")
