"""What a run predicted, a record a row: the file of `compt_fast.evaluate --predictions`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from compt_fast.tasks.examples import JobData, ScoredRows
from compt_fast.tasks.text import input_text, label_text
from compt_fast.utils.errors import InputError
from compt_fast.utils.files import new_file

FIELDS = ("run", "task", "row", "where", "input", "gold", "prediction")
"""`row` counts from 1 in the split as it was read, `where` is the row's file and line, `input` the whole text."""
FORMATS = (".jsonl", ".csv")
Record = dict[str, str | int]


def check_format(path: Path) -> None:
    """Raise `InputError` for a file that is of none of `FORMATS`, or cannot be there."""
    if path.suffix not in FORMATS:
        raise InputError(f"--predictions {path}: a file of predictions ends in .jsonl or .csv")
    if not path.parent.is_dir():
        raise InputError(f"--predictions {path}: there is no folder {path.parent}")


def records(run: str, data: JobData, sets: list[ScoredRows], predicted: list[list[str]], mode: str) -> Iterator[Record]:
    """The record of every row of `sets`, in the order of the splits, from what `run` predicted for it."""
    tasks = {of.task.name: of for of in data.tasks}
    for of, texts in zip(sets, predicted, strict=True):
        split = tasks[of.task.name].evaluation
        indices = data.scored_indices(tasks[of.task.name])
        for index, gold, text in sorted(zip(indices, of.golds, texts, strict=True)):
            row = split[index]
            yield {
                "run": run,
                "task": of.task.name,
                "row": index + 1,
                "where": row.where,
                "input": input_text(of.task, row.texts, prefix=data.prefix),
                "gold": label_text(of.task, gold, mode),
                "prediction": text,
            }


def write_predictions(path: Path, rows: list[Record]) -> None:
    """Write the records as JSON lines or CSV, by the suffix of `path`; atomic. Raises `InputError` where that fails."""
    try:
        with new_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as out:
            if path.suffix == ".csv":
                table = csv.DictWriter(out, FIELDS)
                table.writeheader()
                table.writerows(rows)
            else:
                out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except OSError as error:
        raise InputError(f"--predictions {path}: cannot be written ({error.strerror})") from None
