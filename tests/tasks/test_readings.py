"""Published rows of SuperGLUE as rows of a task's fields, held against T5's own example and hand-made ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compt_fast.tasks.formats import Columns
from compt_fast.tasks.loaders import load_task
from compt_fast.tasks.readings import READINGS, as_read
from compt_fast.tasks.readings.multirc import without_markup
from compt_fast.tasks.readings.record import without_highlights
from compt_fast.tasks.readings.wsc import marked
from compt_fast.tasks.splits import Split
from compt_fast.tasks.table import TASKS
from compt_fast.tasks.text import input_text
from compt_fast.utils.errors import InputError
from tests.helpers.hub_rows import ANSWERS, CANDIDATES, make_rows, write_rows


def columns_of(rows: list[dict[str, Any]]) -> Columns:
    return Columns(
        {name: [row[name] for row in rows] for name in rows[0]}, lambda row: f"rows:{row + 1}", "rows", len(rows)
    )


def first_text(name: str, rows: list[dict[str, Any]]) -> str:
    return input_text(TASKS[name], Split(TASKS[name], columns_of(rows))[0].texts, prefix=True)


WSC = {
    "text": "This is a test sentence .",
    **{"span1_text": "test", "span1_index": 3, "span2_text": "This", "span2_index": 0, "label": 0},
}


def test_wsc_marks_both_spans_as_t5_does() -> None:
    assert first_text("wsc", [WSC]) == "wsc: text: # This # is a * test * sentence ."
    turned = WSC | {"span1_text": "This", "span1_index": 0, "span2_text": "test", "span2_index": 3}
    assert first_text("wsc", [turned]) == "wsc: text: * This * is a # test # sentence ."
    of_two_words = WSC | {"span1_text": "test sentence", "span2_text": "a", "span2_index": 2}
    assert first_text("wsc", [of_two_words]) == "wsc: text: This is # a # * test sentence * ."
    assert first_text("wsc", [WSC | {"span1_index": "3", "span2_index": "0"}]).startswith("wsc: text: # This #")


def test_a_span_that_is_not_there_is_left_unmarked() -> None:
    assert marked("Kamenev, with Zinoviev, left.", "Kamenev and Zinoviev", 0, "*") == "Kamenev, with Zinoviev, left."
    assert marked("one two", "two", 5, "*") == "one two"
    assert marked("one (two) three", "(two)", 1, "*") == "one * (two) * three", "a span is no pattern"


@given(st.lists(st.text("abc().*", min_size=1), min_size=1, max_size=6), st.data())
def test_marks_and_nothing_else_are_added(words: list[str], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(words) - 1))
    done = marked(" ".join(words), words[index], index, "#")
    assert done.split() == [*words[:index], "#", words[index], "#", *words[index + 1 :]]


def test_multirc_is_grouped_by_question_and_has_no_markup() -> None:
    rows = make_rows("multirc", 7, "train")
    split = Split(TASKS["multirc"], columns_of(rows))
    assert split.groups is not None and split.groups.tolist() == [k // ANSWERS for k in range(7)]
    assert first_text("multirc", rows) == (
        "multirc: question: Question 0? answer: A train text of answer, number 0. paragraph: Sent 1: Paragraph 0."
    )
    assert without_markup("<b>Sent 1: </b>One.<br><b>Sent 2: </b>Two.") == "Sent 1: One. Sent 2: Two."
    # Equal numbers of questions in two paragraphs are two questions.
    twice = [row | {"idx": row["idx"] | {"question": 0, "paragraph": k}} for k, row in enumerate(rows)]
    groups = Split(TASKS["multirc"], columns_of(twice)).groups
    assert groups is not None and groups.tolist() == list(range(7))


def test_record_is_a_row_a_candidate() -> None:
    rows = make_rows("record", 3, "train")
    rows[1] |= {"entities": ["a", "b", "a"], "answers": ["b", "c"]}
    split = Split(TASKS["record"], columns_of(rows))
    assert split.groups is not None
    assert split.groups.tolist() == [0] * CANDIDATES + [1] * 2 + [2] * CANDIDATES
    assert [(split[k].texts[1], split[k].label, split[k].where) for k in (3, 4)] == [
        ("a", 0, "rows:2"),
        ("b", 1, "rows:2"),
    ]
    assert split.labels.tolist() == [1, 0, 0, 0, 1, 0, 0, 1]
    assert first_text("record", rows).startswith("record: query: Query 0 on @placeholder. entity: Entity 0 passage: A ")
    said = without_highlights('Said "so"\n@highlight\nMore\n@highlight\nEnd.\n@highlight\nLast')
    assert said == 'Said "so" More. End. Last'


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("wsc", {"span1_index": "two"}, "rows:2: column 'span1_index' holds 'two'; it must be the number of a word"),
        ("wsc", {"span2_index": -1}, "rows:2: column 'span2_index' holds -1"),
        ("wsc", {"span1_text": None}, "rows:2: column 'span1_text' holds None where a text belongs"),
        ("multirc", {"idx": 3}, "rows:2: column 'idx' holds 3 where an object with the number 'paragraph' belongs"),
        ("multirc", {"idx": {"paragraph": 1}}, "rows:2: column 'idx': 'question' is None; it must be a whole number"),
        ("record", {"entities": "Rome"}, "rows:2: column 'entities' holds 'Rome' where a list of entities belongs"),
        ("record", {"answers": None}, "rows:2: column 'answers' holds None where a list of answers belongs"),
        ("record", {"idx": {"passage": True, "query": 1}}, "rows:2: column 'idx': 'passage' is True"),
        ("multirc", {"question": 3}, "rows:2: column 'question' holds the number 3 where a text belongs"),
        ("record", {"entities": ["a", 3]}, r"rows:2: column 'entities' holds \['a', 3\]; all of it must be texts"),
    ],
)
def test_bad_cells_are_named(name: str, changes: dict[str, Any], message: str) -> None:
    rows = make_rows(name, 3, "train")
    rows[1] |= changes
    with pytest.raises(InputError, match=message):
        Split(TASKS[name], columns_of(rows)).check()


@pytest.mark.parametrize("name", READINGS)
def test_rows_that_are_read_already_stay_as_they_are(name: str) -> None:
    read = as_read(TASKS[name].reading, columns_of(make_rows(name, 4, "train")))
    needs = READINGS[name].needs[-1]
    left = replace(read, values={column: values for column, values in read.values.items() if column != needs})
    assert as_read(TASKS[name].reading, left) is left
    assert as_read("", read) is read


@pytest.mark.parametrize("name", READINGS)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_published_rows_in_a_folder_of_files_are_read_too(name: str, form: str, tmp_path: Path) -> None:
    rows = make_rows(name, 8, "train")
    for split in ("train", "validation"):
        write_rows(tmp_path / name / f"{split}.{form}", rows)
    here, there = load_task(TASKS[name], data=tmp_path).train, Split(TASKS[name], columns_of(rows))
    assert [row.texts for row in here] == [row.texts for row in there] and here.labels.tolist() == there.labels.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [row.pop("question_id") for row in rows], "no column 'question_id' for the groups of multirc"),
        (lambda rows: rows[1].update(question_id=" "), "train.jsonl:2: column 'question_id' holds ' '; it must say"),
        (lambda rows: rows[1].update(question_id=0.5), "train.jsonl:2: column 'question_id' holds 0.5"),
    ],
)
def test_groups_that_are_missing(
    change: Callable[[list[dict[str, Any]]], object], message: str, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [
        {"question": "Who?", "answer": f"A{k}", "paragraph": "P.", "label": k % 2, "question_id": k // 2}
        for k in range(4)
    ]
    change(rows)
    for split in ("train", "validation"):
        write_rows(tmp_path / "multirc" / f"{split}.jsonl", rows)
    with pytest.raises(InputError, match=message):
        load_task(TASKS["multirc"], data=tmp_path)
