from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compt_fast.tasks.formats import Columns, arrow_columns
from compt_fast.tasks.splits import Row, Split, read_labels
from compt_fast.tasks.table import TASKS, Task
from compt_fast.utils.errors import InputError

RTE, STSB, STSB2, SCITAIL = (TASKS[name] for name in ("rte", "stsb", "stsb2", "scitail"))
STARS = replace(RTE, name="stars", labels=("1", "2", "3"))


def where(row: int) -> str:
    return f"rows:{row + 1}"


def split_of(task: Task, **columns: Sequence[Any]) -> Split:
    return Split(task, Columns(columns, where, "rows", len(columns["label"])))


def labels(task: Task, raw: list[Any]) -> list[Any]:
    return read_labels(task, raw, where).tolist()


def test_rows_have_texts_labels_and_places() -> None:
    split = split_of(RTE, sentence1=["a", "b"], sentence2=["c", "d"], label=[1, 0])
    assert len(split) == 2
    assert list(split) == [Row(("a", "c"), 1, "rows:1"), Row(("b", "d"), 0, "rows:2")]
    assert split.labels.dtype == np.int64
    assert type(split[0].label) is int


def test_texts_are_read_when_asked_for() -> None:
    split = split_of(RTE, sentence1=["a", ""], sentence2=["c", "d"], label=[1, 0])
    assert split[0].texts == ("a", "c")
    with pytest.raises(InputError, match="rows:2: column 'sentence1' is empty"):
        split[1]
    with pytest.raises(InputError, match="rows:2: column 'sentence1' is empty"):
        split.check()


@pytest.mark.parametrize("arrow", [False, True])
def test_white_space_is_no_text(arrow: bool) -> None:
    """Arrow's notion of it and Python's are the same."""
    spaces = [chr(code) for code in range(0x11000) if chr(code).isspace()]
    texts = ["a", None, "", *spaces, " \t\n", *(f"{space}a{space}" for space in spaces), "\u200b", "b"]
    blank = [k for k, text in enumerate(texts) if text is None or not text.strip()]
    columns = Columns({"sentence": texts}, where, "rows", len(texts))
    if arrow:
        columns = arrow_columns(pa.table({"sentence": texts}), where, "rows")
    assert np.flatnonzero(columns.empty("sentence")).tolist() == blank


def test_rows_without_a_text_are_left_out_only_where_asked() -> None:
    columns = Columns({"sentence1": ["a", "b", "c"], "sentence2": ["d", "", "e"], "label": [1, 7, 0]}, where, "rows", 3)
    split = Split(RTE, columns, skip_empty=True)
    assert list(split) == [Row(("a", "d"), 1, "rows:1"), Row(("c", "e"), 0, "rows:3")]
    assert split.note == "rte: left out for an empty text or label: 1 of 3 rows, the first rows:2"
    with pytest.raises(InputError, match="rows:2: unknown label of rte '7'"):
        Split(RTE, columns)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        (" \n\t\u00a0", "is empty"),
        (None, "is missing"),
        (3, "holds the number 3 where a text belongs"),
        (float("nan"), "holds the number nan where a text belongs"),
        (True, "holds the truth value True where a text belongs"),
        (["a"], r"holds the list \['a'\] where a text belongs"),
        ("\ud83d", "holds half of a surrogate pair"),
    ],
)
def test_bad_texts(text: object, problem: str) -> None:
    split = split_of(RTE, sentence1=["a", "b"], sentence2=["c", text], label=[1, 0])
    with pytest.raises(InputError, match=f"rows:2: column 'sentence2' {problem}"):
        split.check()


def test_missing_columns() -> None:
    with pytest.raises(InputError, match="rows: no column 'sentence2' for the texts of rte; there"):
        split_of(RTE, sentence1=["a"], label=[0])
    with pytest.raises(InputError, match="no column 'label' for the labels of rte; there are: sen"):
        Split(RTE, Columns({"sentence1": ["a"], "sentence2": ["b"]}, where, "rows", 1))


@pytest.mark.parametrize(
    ("task", "raw", "ids"),
    [
        (RTE, [0, 1, 1], [0, 1, 1]),
        (RTE, ["1", " 0 "], [1, 0]),
        (RTE, [1.0, 0], [1, 0]),
        (RTE, ["not_entailment", "entailment"], [1, 0]),
        (SCITAIL, ["neutral", "entails"], [1, 0]),
        (SCITAIL, ["neutral", "entailment"], [1, 0]),
        (SCITAIL, [0, 1], [0, 1]),
        # Where label words are numbers, numbers are words, not ids.
        (STARS, ["1", "3"], [0, 2]),
        (STARS, [1, 3], [0, 2]),
        (STARS, [1.0, 3.0], [0, 2]),
    ],
)
def test_class_labels(task: Task, raw: list[Any], ids: list[int]) -> None:
    assert labels(task, raw) == ids


def test_values_of_the_data_come_before_label_words() -> None:
    swapped = replace(RTE, labels=("yes", "no"), label_values=("no", "maybe"))
    assert labels(swapped, ["no", "maybe"]) == [0, 1]


@pytest.mark.parametrize(
    ("task", "raw", "message"),
    [
        (RTE, [0, 2], "rows:2: unknown label of rte '2'.*Known: entailment, not_entailment, 0, 1"),
        (RTE, ["entailment", "entailed"], "rows:2: unknown .*Did you mean 'entailment'"),
        (RTE, ["Entailment"], "rows:1: unknown label of rte 'Entailment'"),
        (RTE, [0, -1], "rows:2: label -1 of rte: the row is unlabelled"),
        (RTE, ["0", ""], "rows:2: no label"),
        (RTE, [0, None], "rows:2: no label .column 'label'.; fill it, or leave such rows out with --skip-empty"),
        (RTE, ["0", " "], "rows:2: no label"),
        (RTE, ["1", "2"], r"rows:2: unknown label of rte '2'.*0 is entailment.*label_values = \["),
        (RTE, [0, 1, "1"], "rows:3: label is the text '1', but that of rows:1 is the number 0"),
        (RTE, ["0", 1], "rows:2: label is the number 1, but that of rows:1 is the text '0'"),
        (RTE, ["0", "entailment"], "rows:2: label 'entailment', but rows:1 has '0'; write words"),
        (RTE, ["entailment", "1"], "rows:2: label '1', but rows:1 has 'entailment'"),
        (RTE, [True], "rows:1: label is the truth value True; it must be a number or a word"),
        (RTE, [[0]], r"rows:1: label is the list \[0\]"),
        (RTE, [0, 0.5], "rows:2: unknown label of rte '0.5'"),
        (RTE, [0.0, float("nan")], "rows:2: unknown label of rte 'nan'"),
        (RTE, ["²"], "rows:1: unknown label of rte '²'"),
        (STARS, [0], "rows:1: unknown label of stars '0'.*Known: 1, 2, 3."),
        (STARS, ["4"], "rows:1: unknown label of stars '4'"),
        (STSB, [1.0, float("nan")], "rows:2: score '?nan'? of stsb is not a number"),
        (STSB, ["1.0", "nan"], "rows:2: score '?nan'? of stsb is not a number"),
        (STSB, [1.0, 5.1], "rows:2: score 5.1 of stsb is outside 0 to 5"),
        (STSB, [1.0, -1.0], "rows:2: score -1.0 of stsb is outside 0 to 5"),
        (STSB, [1.0, float("inf")], "rows:2: score inf of stsb is outside"),
        (STSB, ["1.0", "3,8"], "rows:2: score '3,8' of stsb is not a number"),
        (STSB, [1.0, "3.8"], "rows:2: label is the text '3.8', but that of rows:1 is the number"),
        (STSB, [1.0, None], "rows:2: no label"),
        (STSB, ["1.0", ""], "rows:2: no label"),
        (STSB2, [1.0, float("nan")], "rows:2: score '?nan'? of stsb2 is not a number"),
        (STSB2, [1.0, 7.0], "rows:2: score 7.0 of stsb2 is outside 0 to 5"),
    ],
)
def test_bad_labels(task: Task, raw: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        labels(task, raw)


def test_scores_stay_numbers() -> None:
    read = read_labels(STSB, [0, 3.75, 5], where)
    assert read.dtype == np.float64
    assert read.tolist() == [0.0, 3.75, 5.0]
    assert labels(STSB, ["0", "3.75"]) == [0.0, 3.75]


def test_thresholds_belong_to_the_class_above() -> None:
    raw = [0.0, 1.999, 2.0, 3.999, 4.0, 5.0]
    assert labels(STSB2, raw) == [0, 0, 1, 1, 2, 2]


@settings(deadline=None)
@given(st.lists(st.floats(0, 5), min_size=1), st.lists(st.floats(0, 5), min_size=2, max_size=2))
def test_binning_counts_thresholds_reached(raw: list[float], bounds: list[float]) -> None:
    task = replace(STSB2, thresholds=tuple(sorted(bounds)))
    assert labels(task, raw) == [sum(score >= bound for bound in bounds) for score in raw]
