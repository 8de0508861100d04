"""Answer the rows of a CSV file with the prompts of a run, a few at a time, whatever its size.

    python examples/predict_csv.py RUN RUN-ID TASK rows.csv answers.csv

It is what `python -m compt_fast.predict` does with more care (checks, progress, --resume), as a start for a program of
your own.
"""

from __future__ import annotations

import csv
import sys
from collections import deque
from collections.abc import Iterator

import compt_fast


def main(folder: str, run: str, task: str, rows: str, answers: str) -> None:
    """Copy `rows` to `answers` with two columns more."""
    predictor = compt_fast.load(folder, run=run)
    with open(rows, newline="", encoding="utf-8") as given, open(answers, "w", newline="", encoding="utf-8") as made:
        table = csv.DictReader(given)
        read_ahead: deque[dict[str, str]] = deque()
        out = csv.DictWriter(made, [*(table.fieldnames or ()), "predicted", "likelihood"])
        out.writeheader()

        def noted() -> Iterator[dict[str, str]]:
            """The rows, each kept until its answer comes: `stream` reads ahead, but never far."""
            for row in table:
                read_ahead.append(row)
                yield row

        for answer in predictor.stream(noted(), task, scores=True):
            out.writerow(
                read_ahead.popleft() | {"predicted": answer.label, "likelihood": max((answer.scores or {}).values())}
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
