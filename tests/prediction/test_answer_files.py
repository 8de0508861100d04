"""Answers in files; what interrupts them is tested with the command, in tests/test_predict.py."""

from __future__ import annotations

import csv
import datetime
import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import parquet

from compt_fast import Predictor, load
from compt_fast.prediction.answer_files import Printed, Way, answer_all, answer_file, made_by
from compt_fast.prediction.row_files import RowFile


@pytest.fixture(scope="module")
def predictor(other: Path) -> Predictor:
    return load(other)


def answered(predictor: Predictor, rows: Path, path: Path, way: Way) -> Path:
    with answer_file(path, made_by(predictor, way), way.columns, resume=False) as out:
        answer_all(predictor, RowFile(rows), out, way)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_any_value_is_copied(suffix: str, predictor: Predictor, tmp_path: Path) -> None:
    """As JSON has it, or its text: halves of surrogate pairs, lists, line ends, none, days."""
    way = Way(copied=("a", "b"))
    odd = [{"sentence": "man", "a": "half \ud800\n", "b": [1, "é"]}, {"sentence": "dog", "a": None, "b": 'a "b"'}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in odd))
    path = answered(predictor, tmp_path / "rows.jsonl", tmp_path / f"out{suffix}", way)
    found: list[dict[str, Any]]
    if suffix == ".jsonl":
        found = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
        assert [(row["a"], row["b"]) for row in found] == [(row["a"], row["b"]) for row in odd]
    else:
        found = list(csv.DictReader(path.open(newline="", encoding="utf-8")))
        assert [(row["a"], row["b"]) for row in found] == [("half \\ud800\n", '[1, "\\u00e9"]'), ("", 'a "b"')]
    table = pa.Table.from_pylist([{"sentence": "man", "a": datetime.date(2026, 1, 2), "b": b"x"}])
    parquet.write_table(table, tmp_path / "rows.parquet")
    path = answered(predictor, tmp_path / "rows.parquet", tmp_path / f"more{suffix}", way)
    assert "2026-01-02" in path.read_text()


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "é"), ("ascii", "\\u00e9")])
def test_printed_in_the_letters_of_the_output(
    encoding: str, shown: str, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"sentence": "man", "a": "é"}')
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    done = answer_all(predictor, RowFile(tmp_path / "rows.jsonl"), Printed(), Way(copied=("a",)))
    written = out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert done.rows == 1 and f'"a": "{shown}"' in written and json.loads(written)["a"] == "é"


def test_what_answers_depend_on(predictor: Predictor, runs: Path) -> None:
    """Another prompt, task, size of batches or column makes other answers; the way to keep going does not."""
    way = Way()
    made = made_by(predictor, way)
    assert made == made_by(predictor, Way(keep_going=True))
    others = [Way(task="toy_d"), Way(scores=True), Way(batch_size=3), Way(copied=("a",))]
    differ = [{key for key, value in made_by(predictor, one).items() if made[key] != value} for one in others]
    assert differ == [{"--task"}, {"columns"}, {"--batch-size"}, {"columns"}]
    another = Predictor(predictor.trunk, load(runs, run="spp-n3-k4-s0").prompts)
    assert {key for key, value in made_by(another, way).items() if made[key] != value} == {"prompts"}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_values_that_json_has_no_word_for_are_copied(suffix: str, predictor: Predictor, tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"sentence": ["man"], "a": [[datetime.date(2026, 1, 2)]], "b": [[float("nan"), 1.0]]}),
        tmp_path / "rows.parquet",
    )
    path = answered(predictor, tmp_path / "rows.parquet", tmp_path / f"out{suffix}", Way(copied=("a", "b")))
    text = path.read_text(encoding="utf-8")
    assert "2026-01-02" in text and "null" in text and "NaN" not in text
