"""Reading of rows from files: JSON lines, CSV, TSV and Parquet, into columns whose rows know their
place.

CSV quotes as RFC 4180 says; TSV has no quoting: a tab always ends a cell and a line end always ends
a row.
"""

from __future__ import annotations

import csv
import io
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compt_fast.utils.errors import InputError, shown
from compt_fast.utils.inputs import check_file, parse, read_text

FORMATS = ("jsonl", "csv", "tsv", "parquet")
LARGEST = 2**32  # bytes of a file of rows
MOST_COLUMNS = 2000


@dataclass(frozen=True)
class Columns:
    """Rows by column; `where(i)` is the place of row `i` for messages: `file:line` (Parquet:
    `file:row`), from 1."""

    values: Mapping[str, Sequence[Any]]
    where: Callable[[int], str]
    origin: str  # the file or files, for messages that concern them all
    size: int

    def first(self, names: Iterable[str], what: str) -> str:
        """The first of `names` that is a column; `what` says in the `InputError` what it is for."""
        for name in names:
            if name in self.values:
                return name
        wanted = " or ".join(map(repr, names))
        raise InputError(f"{self.origin}: no column {wanted} for {what}; there are: {_some(self.values)}")

    def empty(self, name: str) -> np.ndarray:
        """Which rows (n,) hold no text in the column `name`: none, or white space alone."""
        column = self.values[name]
        if isinstance(column, _ArrowColumn):
            return column.empty()
        return np.array([is_empty(value) for value in column])

    def take(self, chosen: np.ndarray) -> Columns:
        """The rows `chosen` (m,), in that order; each keeps its place."""
        values = {
            name: column.take(chosen) if isinstance(column, _ArrowColumn) else [column[i] for i in chosen]
            for name, column in self.values.items()
        }
        return Columns(values, lambda row: self.where(int(chosen[row])), self.origin, len(chosen))


def is_empty(value: Any) -> bool:
    """Whether a cell holds nothing, or white space alone."""
    return value is None or (isinstance(value, str) and not value.strip())


def _some(names: Iterable[Any]) -> str:
    """Names for a message, not too many of them."""
    every = list(map(str, names))
    more = f" and {len(every) - 20:,} more" if len(every) > 20 else ""
    return ", ".join(name if len(name) <= 80 else shown(name) for name in every[:20]) + more


def find_split(folder: Path, split: str) -> list[Path]:
    """The files that hold a split: `<split>.<format>`, or Parquet shards
    `<split>-00000-of-00002.parquet`; [] for none.

    Raises `InputError` where two formats hold it, or where shards are missing.
    """
    plain = [path for form in FORMATS if (path := folder / f"{split}.{form}").is_file()]
    shards = sorted(folder.glob(f"{split}-[0-9]*-of-*[0-9].parquet"))
    if len(plain) + bool(shards) > 1:
        names = ", ".join(path.name for path in [*plain, *shards[:1]])
        raise InputError(f"{folder}: {names} all hold the split {split!r}; keep one of them")
    if shards:
        whole = int(re.sub(r".*-of-(\d+)\.parquet$", r"\1", shards[0].name))
        if len(shards) != whole:
            raise InputError(f"{folder}: {len(shards)} of {whole} shards of {split!r} are there")
    return plain or shards


def read_columns(paths: Sequence[Path]) -> Columns:
    """The rows of one file, or of Parquet shards one after another. Raises `InputError` naming file
    and row."""
    check_format(paths[0])
    columns = _read_parquet(paths) if paths[0].suffix == ".parquet" else _read_lines(paths[0])
    if not columns.size:
        raise InputError(f"{columns.origin}: no rows")
    return columns


def check_format(path: Path) -> None:
    """Raise `InputError` for the name of a file that is of none of `FORMATS`."""
    if path.suffix[1:] not in FORMATS:
        hint = f"; one JSON object a line makes it {path.stem}.jsonl" if path.suffix == ".json" else ""
        raise InputError(f"{path}: rows are read from files of {', '.join(FORMATS)}{hint}")


def arrow_columns(table: Any, where: Callable[[int], str], origin: str) -> Columns:
    """The columns of a `pyarrow.Table`; a value becomes a Python object when it is asked for."""
    values = {name: _ArrowColumn(table.column(name)) for name in table.column_names}
    return Columns(values, where, origin, table.num_rows)


class _ArrowColumn(Sequence[Any]):
    """A `pyarrow.ChunkedArray` that gives Python objects."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: Any) -> Any:
        return self._array[index].as_py()

    def __iter__(self) -> Any:
        return iter(self._array.to_pylist())

    def empty(self) -> np.ndarray:
        """As `Columns.empty`, without a Python object for each row; of texts only."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not (pa.types.is_string(self._array.type) or pa.types.is_large_string(self._array.type)):
            return np.zeros(len(self), dtype=bool)  # refused as soon as a row is read
        blank = pc.or_(pc.equal(pc.binary_length(self._array), 0), pc.utf8_is_space(self._array))
        return np.asarray(blank.fill_null(True), dtype=bool)

    def take(self, chosen: np.ndarray) -> _ArrowColumn:
        """The rows `chosen` (m,), in that order."""
        return _ArrowColumn(self._array.take(chosen))


def _read_parquet(paths: Sequence[Path]) -> Columns:
    tables = []
    for path in paths:
        check_file(path, LARGEST)
        with parquet_of(path) as file:
            tables.append(file.read())
    import pyarrow as pa

    for path, table in zip(paths, tables, strict=True):
        if table.schema != tables[0].schema:
            raise InputError(f"{path}: its columns differ from those of {paths[0].name}")
    starts = [0]
    for table in tables:
        starts.append(starts[-1] + table.num_rows)

    def where(row: int) -> str:
        shard = bisect_right(starts, row) - 1
        return f"{paths[shard]}:{row - starts[shard] + 1}"

    origin = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    return arrow_columns(pa.concat_tables(tables), where, origin)


@contextmanager
def parquet_of(path: Path) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile` with its columns checked; `InputError` where it is none, or not whole."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise InputError(f"{path}: reading Parquet needs pyarrow (pip install pyarrow)") from None
    try:
        with parquet.ParquetFile(path) as file:
            check_header(path, file.schema_arrow.names)
            yield file
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: {_why_not_parquet(path, error)}") from None


def _why_not_parquet(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        if file.read(24).startswith(b"version https://git-lfs"):
            return "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"
    said = " ".join(str(error).split())[:300]
    return f"not a whole Parquet file ({said}); it may be truncated: fetch it again"


def _read_lines(path: Path) -> Columns:
    reader = _read_jsonl if path.suffix == ".jsonl" else _read_table
    values, lines = reader(path, read_text(path, LARGEST))
    return Columns(values, lambda row: f"{path}:{lines[row]}", str(path), len(lines))


def check_header(where: Path | str, names: Iterable[str]) -> None:
    """Raise `InputError` for a column that is there twice, and for too many."""
    counts = Counter(list(names))
    if counts.total() > MOST_COLUMNS:
        raise InputError(f"{where}: {counts.total():,} columns; up to {MOST_COLUMNS:,} are read")
    for name, count in counts.items():
        if count > 1:
            raise InputError(f"{where}: two columns are called {shown(name)}; rename one")


def _read_jsonl(path: Path, text: str) -> tuple[dict[str, list[Any]], list[int]]:
    """Rows of JSON objects, one a line; a key that a row lacks is None there."""
    rows, lines = [], []
    # Not splitlines(): JSON strings may hold U+2028 and its like, which are no line ends here.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            rows.append(json_object(line, f"{path}:{number}"))
            lines.append(number)
    keys = dict.fromkeys(key for row in rows for key in row)
    check_header(path, keys)
    return {key: [row.get(key) for row in rows] for key in keys}, lines


def json_object(line: str, where: str) -> dict[str, Any]:
    """The object that a line of JSON lines holds; `InputError` that begins with `where` for anything else."""
    try:
        row = parse(".json", line, where)
    except InputError as error:
        raise InputError(f"{error}; every line must be one JSON object") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: a JSON {type(row).__name__}; every line must be one object, {{...}}")
    return row


def _check_separator(path: Path, header: list[str]) -> None:
    """Raise `InputError` for one column whose name holds what separates columns elsewhere."""
    marks = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}
    found = next((mark for mark in marks if len(header) == 1 and mark in header[0]), None)
    if found is None:
        return
    own, right = ("tabs", ".csv") if path.suffix == ".tsv" else ("commas", ".tsv")
    rename = f", or rename it to {path.stem}{right}" if (found, right) in ((",", ".csv"), ("\t", ".tsv")) else ""
    raise InputError(
        f"{path}:1: one column, {header[0]!r}: its cells are separated by {marks[found]} ({found!r}), and those of a "
        f"{path.suffix} file by {own}; save it with {own}{rename}"
    )


def _read_table(path: Path, text: str) -> tuple[dict[str, list[Any]], list[int]]:
    """Rows of a CSV or TSV file with a header; every cell is a string."""
    (_, header), *rows = table_rows(path, io.StringIO(text, newline=""))
    for line, cells in rows:
        check_cells(header, cells, f"{path}:{line}")
    return {name: [cells[k] for _, cells in rows] for k, name in enumerate(header)}, [line for line, _ in rows]


def table_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """The header of a CSV or TSV file, checked, and its rows: the line that each begins in, and its cells.

    `lines` have their ends. Raises `InputError` that names file and line.
    """
    if path.suffix == ".tsv":
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, strict=True)
    start, header = 1, True
    try:
        for cells in reader:
            if cells and header:
                _check_separator(path, cells)
                check_header(f"{path}:{start}", cells)
                header = False
            if cells:
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}:{start}: not {path.suffix[1:].upper()} ({error})") from None
    if header:
        raise InputError(f"{path}: empty; the first line must name the columns")


def check_cells(header: Sequence[str], cells: Sequence[str], where: str) -> None:
    """Raise `InputError` that begins with `where` for a row of more or fewer cells than the header."""
    if len(cells) != len(header):
        raise InputError(f"{where}: {len(cells)} cells where the header names {len(header)} columns")
