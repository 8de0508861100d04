"""The suites' rows: deterministic, balanced, apart, and not solvable by their words alone."""

from __future__ import annotations

from collections import Counter

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from compt_fast.mini.rows import Row
from compt_fast.tasks.table import MAKERS, SUITES, TASKS

RELATIONAL_BOUND = {
    "mini_cola": 70,
    "mini_mnli": 62,
    "mini_mrpc": 70,
    "mini_qnli": 70,
    "mini_qqp": 70,
    "mini_rte": 70,
    "mini_multinli": 62,
    "mini_paws": 70,
    "mini_scitail": 70,
    "mini_boolq": 70,
    "mini_cb": 62,
    **dict.fromkeys(("mini_copa", "mini_multirc", "mini_record", "mini_wic", "mini_wsc", "mini_winogrande"), 70),
}
ONE_TEXT = {"mini_cola", "mini_sst2", "mini_imdb", "mini_yelp_polarity", "mini_wsc"}


def texts(row: Row) -> list[str]:
    return [str(text) for name, text in row.items() if name.startswith("sentence")]


def sentences(row: Row) -> list[str]:
    """The texts that are whole sentences: answers, options and words are none, nor are those that are but a gap's."""
    return [text for text in texts(row) if text[-1] in ".?" and ("_" not in text or ". " in text)]


def test_each_embedded_task_has_its_rows() -> None:
    assert [name for name, task in TASKS.items() if task.origin == "mini"] == list(MAKERS)
    assert {name for suite in ("mini", "mini2", "mini3", "mini4") for name in SUITES[suite]} == set(MAKERS)
    for name, maker in MAKERS.items():
        assert maker.graded == TASKS[name].is_score and len(maker.meanings) == (len(TASKS[name].labels) or 6)


@pytest.mark.parametrize("task", MAKERS)
def test_draw_is_deterministic_and_balanced(task: str) -> None:
    drawn = MAKERS[task].draw(task, "train", 120, seed=3)
    assert drawn == MAKERS[task].draw(task, "train", 120, seed=3)
    assert drawn != MAKERS[task].draw(task, "train", 120, seed=4)
    counts = Counter(row["label"] for row in drawn)
    assert len(counts) == len(MAKERS[task].meanings)
    assert len(set(counts.values())) == 1
    assert len({tuple(texts(row)) for row in drawn}) == 120


@pytest.mark.parametrize("task", MAKERS)
def test_columns_and_label_types(task: str) -> None:
    for row in MAKERS[task].draw(task, "validation", 30):
        assert ("sentence2" in row) == (task not in ONE_TEXT)
        assert set(row) == {"label", *(column for column, _ in TASKS[task].fields), *filter(None, [TASKS[task].group])}
        assert isinstance(row["label"], float if task == "mini_stsb" else int)


def test_splits_share_no_sentence() -> None:
    train = {s for task in MAKERS for row in MAKERS[task].draw(task, "train", 600) for s in sentences(row)}
    validation = {s for task in MAKERS for row in MAKERS[task].draw(task, "validation", 600, 9) for s in sentences(row)}
    assert not train & validation


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be"):
        MAKERS["mini_cola"].draw("mini_cola", "test", 3)


@pytest.mark.parametrize("task", RELATIONAL_BOUND)
def test_words_alone_do_not_solve_it(task: str) -> None:
    """Logistic regression on the words of both sentences, marked by their sentence."""
    sets = [MAKERS[task].draw(task, "train", 2000), MAKERS[task].draw(task, "validation", 600)]
    said = [
        [" ".join(f"{i}_{w}" for i, s in enumerate(texts(row)) for w in s.strip(".?").split()) for row in part]
        for part in sets
    ]
    labels = [[row["label"] for row in part] for part in sets]
    words = CountVectorizer(token_pattern=r"\S+").fit(said[0])
    classifier = LogisticRegression(max_iter=1000, C=0.3).fit(words.transform(said[0]), labels[0])
    assert 100 * classifier.score(words.transform(said[1]), labels[1]) < RELATIONAL_BOUND[task]


def test_rows_of_one_question_differ_in_the_answer_alone() -> None:
    """Each question has an answer of each label, so that the question and the passage say nothing of it."""
    for task, shared, own in (("mini_multirc", (0, 2), 1), ("mini_record", (0, 2), 1)):
        questions: dict[object, list[Row]] = {}
        for row in MAKERS[task].draw(task, "train", 201):
            questions.setdefault(row["question"], []).append(row)
        assert sorted(map(len, questions.values())) == [1] + [2] * 100, "the last one is cut"
        for one, other in (rows for rows in questions.values() if len(rows) == 2):
            assert {one["label"], other["label"]} == {0, 1} and texts(one)[own] != texts(other)[own]
            assert all(texts(one)[k] == texts(other)[k] for k in shared)
