"""The examples do what they say: one trains on rows in memory, the other answers a file with what was trained."""

from __future__ import annotations

import csv
import runpy
import sys
from pathlib import Path

import pytest

import compt_fast


def run(example: Path, *line: object) -> None:
    argv = sys.argv
    sys.argv = [str(example), *map(str, line)]
    try:
        runpy.run_path(str(example), run_name="__main__")
    finally:
        sys.argv = argv


def test_fit_and_then_a_file(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(repository / "examples/fit_and_predict.py", tmp_path / "run", 3)
    said = capsys.readouterr().out
    assert "accuracy" in said and "spp-n3-k16-s0" in said and said.count("{'negative': ") == 2
    rows = [{"id": str(n), "text": f"the {noun} is good"} for n, noun in enumerate(["film", "book", "city"])]
    with (tmp_path / "rows.csv").open("w", newline="") as opened:
        table = csv.DictWriter(opened, ["id", "text"])
        table.writeheader()
        table.writerows(rows)
    files = (tmp_path / "rows.csv", tmp_path / "answers.csv")
    run(repository / "examples/predict_csv.py", tmp_path / "run", "spp-n3-k16-s0", "mood", *files)
    with files[1].open(newline="") as opened:
        found = list(csv.DictReader(opened))
    answers = compt_fast.load(tmp_path / "run", run="spp-n3-k16-s0").predict(rows, "mood", scores=True)
    assert [{key: row[key] for key in ("id", "text")} for row in found] == rows
    assert [row["predicted"] for row in found] == [answer.label for answer in answers]
    assert all(0.5 <= float(row["likelihood"]) <= 1 for row in found)
