"""Rows as the trunk reads them, or what is wrong with them, by their number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from compt_fast import Predictor, load
from compt_fast.prediction.rows import LONGEST, Placed
from compt_fast.utils.errors import InputError

GOOD = {"task": "toy_a", "sentence": "man sees dog"}


@pytest.fixture(scope="module")
def predictor(runs: Path) -> Predictor:
    return load(runs, run="spp-n3-k4-s0")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"task": "toy_a"}, "row 2: no column 'sentence'; a row of toy_a has 'sentence'"),
        ({"sentence": "a"}, "row 2: of which task is it? A column 'task' says it, one of toy_a, toy_b, toy_c"),
        (GOOD | {"task": "toy_aa"}, "row 2: unknown task 'toy_aa'. Did you mean 'toy_a'?"),
        (GOOD | {"task": 3}, "row 2: unknown task '3'"),
        (GOOD | {"task": None}, "row 2: of which task is it?"),
        (GOOD | {"sentence": ""}, "row 2: column 'sentence' is empty"),
        (GOOD | {"sentence": " \t"}, "row 2: column 'sentence' is empty"),
        (GOOD | {"sentence": None}, "row 2: column 'sentence' is missing"),
        (GOOD | {"sentence": float("nan")}, "row 2: column 'sentence' holds the number nan where a text belongs"),
        (GOOD | {"sentence": pd.NA}, "row 2: column 'sentence' holds the NAType <NA> where a text belongs"),
        (GOOD | {"sentence": 3}, "row 2: column 'sentence' holds the number 3 where a text belongs"),
        (GOOD | {"sentence": ["a"]}, "row 2: column 'sentence' holds the list"),
        (GOOD | {"sentence": b"a"}, "row 2: column 'sentence' holds the bytes"),
        (GOOD | {"sentence": "a\0"}, "row 2: column 'sentence' holds a NUL character"),
        (GOOD | {"sentence": "\ud800"}, "row 2: column 'sentence' holds half of a surrogate pair"),
        (GOOD | {"sentence": "a" * 10 * 2**20}, f"holds 10,485,760 characters; up to {LONGEST:,} are read"),
        ("a text", "row 2: a row is a mapping from column to text, not 'a text'"),
        (None, "row 2: a row is a mapping from column to text, not None"),
        (Placed(GOOD | {"sentence": ""}, "rows.csv:7"), "rows.csv:7: column 'sentence' is empty"),
        (Placed(InputError("rows.csv:7: torn"), "rows.csv:7"), "rows.csv:7: torn"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(row: Any, message: str, predictor: Predictor) -> None:
    with pytest.raises(InputError) as raised:
        predictor.predict([GOOD, row, GOOD])
    assert message in str(raised.value)
    first, wrong, _ = predictor.stream([GOOD, row, GOOD], keep_going=True)
    assert wrong.error == str(raised.value) and wrong.label is None and first.error is None


@pytest.mark.parametrize("rows", ["a text", b"bytes", 3, None])
def test_what_holds_no_rows_is_refused(rows: Any, predictor: Predictor) -> None:
    with pytest.raises(InputError, match="rows are mappings from column to text, a list of them, or a data frame"):
        predictor.predict(rows)


def test_the_task_that_is_named_comes_first(predictor: Predictor) -> None:
    assert predictor.predict(GOOD, "toy_b").task == "toy_b"
    assert predictor.predict({"sentence": "a"}, "toy_b").task == "toy_b"


def test_a_column_of_another_name_than_text(predictor: Predictor) -> None:
    """A data frame whose columns are no texts: what is missing is said, not what pandas makes of it."""
    with pytest.raises(InputError, match="row 1: no column 'sentence'"):
        predictor.predict(pd.DataFrame({0: ["a"]}), "toy_a")


def test_long_texts_are_cut_as_in_training(predictor: Predictor) -> None:
    rows = [{"sentence": "man " * count} for count in (200, 2000)]
    one, other = predictor.predict(rows, "toy_a")
    assert one == other
