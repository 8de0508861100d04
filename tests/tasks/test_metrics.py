import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from compt_fast.tasks.metrics import confusion, score
from compt_fast.tasks.table import TASKS
from compt_fast.tasks.text import label_texts
from compt_fast.utils.errors import InputError

COLA, MRPC, MNLI, STSB = (TASKS[name] for name in ("cola", "mrpc", "mnli", "stsb"))
PREDICTED = st.sampled_from(["unacceptable", "acceptable", "accept", ""])
PAIRS = st.lists(st.tuples(st.integers(0, 1), PREDICTED), min_size=1, max_size=30)
every_metric = replace(COLA, metrics=("accuracy", "f1", "matthews"))


@given(PAIRS)
@settings(deadline=None)
def test_accuracy_and_f1_against_counts(pairs: list[tuple[int, str]]) -> None:
    golds = [gold for gold, _ in pairs]
    found = score(every_metric, golds, [text for _, text in pairs], "natural")
    right = sum(COLA.labels[gold] == text for gold, text in pairs)
    assert found["accuracy"] == pytest.approx(100 * right / len(pairs))
    true_positive = sum(gold == 1 and text == "acceptable" for gold, text in pairs)
    false = len(pairs) - right  # on a negative a string that is no label is a false positive
    expected = 200 * true_positive / (2 * true_positive + false) if true_positive else 0.0
    assert found["f1"] == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30))
@settings(deadline=None)
def test_matthews_against_its_definition(pairs: list[tuple[int, int]]) -> None:
    n = Counter(pairs)
    products = n[1, 1] * n[0, 0] - n[0, 1] * n[1, 0]
    margins = math.prod((n[1, 1] + n[0, 1], n[1, 1] + n[1, 0], n[0, 0] + n[0, 1], n[0, 0] + n[1, 0]))
    found = score(COLA, [gold for gold, _ in pairs], [COLA.labels[p] for _, p in pairs], "natural")
    expected = 100 * products / math.sqrt(margins) if margins else 0.0
    assert found["matthews"] == pytest.approx(expected, abs=1e-9)


@given(PAIRS)
@settings(deadline=None, max_examples=30)
def test_an_answer_that_is_no_label_counts_as_the_other_of_two(pairs: list[tuple[int, str]]) -> None:
    golds, texts = [gold for gold, _ in pairs], [text for _, text in pairs]
    wrong = [text if text in COLA.labels else COLA.labels[1 - gold] for gold, text in pairs]
    assert score(every_metric, golds, texts, "natural") == score(every_metric, golds, wrong, "natural")


def test_nonsense_to_every_negative_tells_nothing_apart() -> None:
    found = score(every_metric, [0, 0, 1, 1], ["maybe", "no idea", "acceptable", "acceptable"], "natural")
    assert found == {"accuracy": 50.0, "f1": pytest.approx(100 * 2 / 3), "matthews": 0.0}
    nonsense = score(every_metric, [0, 0, 1, 1], ["maybe"] * 4, "natural")
    assert nonsense == {"accuracy": 0.0, "f1": 0.0, "matthews": -100.0}


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 2)), min_size=1, max_size=20))
@settings(deadline=None, max_examples=30)
def test_of_more_classes_it_counts_as_an_equal_share_of_each_wrong_one(pairs: list[tuple[int, int]]) -> None:
    """Against the definitions, from a table of counts in which such an answer stands as two halves."""
    counts = [[0.0] * 3 for _ in range(3)]
    for gold, found in pairs:
        for k in range(3):
            counts[gold][k] += (k == found) if found >= 0 else (k != gold) / 2
    asked = [sum(row) for row in counts]
    answered = [sum(row[k] for row in counts) for k in range(3)]
    total, right = len(pairs), sum(counts[k][k] for k in range(3))
    f1 = [2 * counts[k][k] / (asked[k] + answered[k]) if asked[k] + answered[k] else 0.0 for k in range(3)]
    cross = right * total - sum(a * b for a, b in zip(asked, answered, strict=True))
    norm = math.sqrt((total**2 - sum(a * a for a in asked)) * (total**2 - sum(b * b for b in answered)))

    task = replace(MNLI, metrics=("f1", "matthews"))
    texts = [MNLI.labels[found] if found >= 0 else "dog" for _, found in pairs]
    scores = score(task, [gold for gold, _ in pairs], texts, "natural")
    assert scores["f1"] == pytest.approx(100 * mean(f1))
    assert scores["matthews"] == pytest.approx(100 * cross / norm if norm > 1e-9 else 0.0, abs=1e-6)


@given(st.lists(st.integers(0, 2), min_size=2, max_size=12), st.data())
@settings(deadline=None, max_examples=30)
def test_nonsense_scores_no_better_than_the_best_wrong_label(golds: list[int], data: st.DataObject) -> None:
    task = replace(MNLI, metrics=("accuracy", "f1"))
    texts = [MNLI.labels[data.draw(st.integers(0, 2))] for _ in golds]
    place = data.draw(st.integers(0, len(golds) - 1))

    def f1_with(text: str) -> float:
        return score(task, golds, [*texts[:place], text, *texts[place + 1 :]], "natural")["f1"]

    wrong = [f1_with(label) for k, label in enumerate(MNLI.labels) if k != golds[place]]
    right = f1_with(MNLI.labels[golds[place]])
    assert f1_with("dog") <= max(wrong) + 1e-9
    assert f1_with("dog") <= right + 1e-9


def test_f1_of_three_classes_is_their_mean() -> None:
    task = replace(MNLI, metrics=("f1",))
    predictions = ["entailment", "neutral", "neutral", "neutral"]
    # entailment 1; neutral 2 * 1 / (2 * 1 + 2) = 0.5; contradiction 0.
    assert score(task, [0, 1, 2, 2], predictions, "natural")["f1"] == pytest.approx(50.0)


@pytest.mark.parametrize("mode", ["natural", "synthetic", "numeric"])
def test_every_mode_scores_its_own_texts(mode: str) -> None:
    texts = label_texts(MNLI, mode)
    assert score(MNLI, [0, 1, 2], texts, mode) == {"accuracy": 100.0}
    assert score(MNLI, [0, 1, 2], [f" {text}\n" for text in texts], mode) == {"accuracy": 100.0}
    assert score(MNLI, [0, 1, 2], texts[1:] + texts[:1], mode) == {"accuracy": 0.0}


def test_a_match_is_exact() -> None:
    texts = ["Entailment", "entailment.", "entail ment", "entailment entailment"]
    assert score(MNLI, [0, 0, 0, 0], texts, "natural") == {"accuracy": 0.0}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def pearson(a: list[float], b: list[float]) -> float:
    a, b = [x - mean(a) for x in a], [x - mean(b) for x in b]
    norm = math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / norm


def ranks(values: list[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of theirs."""
    return [
        sum(other < value for other in values) + (1 + sum(other == value for other in values)) / 2 for value in values
    ]


SCORES = st.sampled_from([k / 5 for k in range(26)])
TEXTS = st.sampled_from([*label_texts(STSB, "natural"), "", "not a number", "nan", "inf"])


@given(st.lists(st.tuples(SCORES, TEXTS), min_size=2, max_size=20))
@settings(deadline=None)
def test_correlations_against_loops(pairs: list[tuple[float, str]]) -> None:
    golds = [gold for gold, _ in pairs]
    numbers = [-1.0 if text in ("", "not a number", "nan", "inf") else float(text) for _, text in pairs]
    found = score(STSB, golds, [text for _, text in pairs], "natural")
    if len(set(golds)) == 1 or len(set(numbers)) == 1:
        assert found == {"spearman": 0.0, "pearson": 0.0}
        return
    assert found["pearson"] == pytest.approx(100 * pearson(golds, numbers), abs=1e-6)
    assert found["spearman"] == pytest.approx(100 * pearson(ranks(golds), ranks(numbers)), abs=1e-6)


def test_unparsable_scores_are_kept() -> None:
    """-1 for the second row: dropping it would give a perfect correlation."""
    found = score(STSB, [1.0, 5.0, 3.0], ["1.0", "entailment", "3.0"], "natural")
    assert found["pearson"] == pytest.approx(100 * pearson([1, 5, 3], [1, -1, 3]))
    own = replace(STSB, score_range=(-5.0, 5.0))
    found = score(own, [1.0, 5.0, 3.0], ["1.0", "entailment", "3.0"], "natural")
    assert found["pearson"] == pytest.approx(100 * pearson([1, 5, 3], [1, -6, 3]))


def test_constant_predictions_do_not_correlate() -> None:
    for texts in (["2.0"] * 4, ["no"] * 4):
        found = score(STSB, [0.0, 1.0, 2.0, 3.0], texts, "natural")
        assert found == {"spearman": 0.0, "pearson": 0.0}


def test_numbers_read_loosely_and_floats_differ_slightly() -> None:
    golds = [0.4000000059604645, 2.25, 5.0]
    assert score(STSB, golds, ["0.4", " 2.2 ", "5"], "natural")["spearman"] == pytest.approx(100.0)


def test_nothing_to_score() -> None:
    with pytest.raises(InputError, match="mnli: no rows to score"):
        score(MNLI, [], [], "natural")
    with pytest.raises(ValueError, match="1 predictions for 2 rows"):
        score(MNLI, [0, 1], ["neutral"], "natural")


def test_confusion_keeps_every_string() -> None:
    predictions = ["equivalent", "equivalent ", "dog", "not_equivalent", "", "dog"]
    table = confusion(MRPC, [1, 1, 1, 0, 0, 1], predictions, "natural")
    assert table == {
        "not_equivalent": {"": 1, "not_equivalent": 1},
        "equivalent": {"dog": 2, "equivalent": 2},
    }
    assert list(table) == ["not_equivalent", "equivalent"]


def test_confusion_of_scores() -> None:
    table = confusion(STSB, [0.3999, 3.75, 0.4], ["0.4", "none", "3.8"], "natural")
    assert table == {"0.4": {"0.4": 1, "3.8": 1}, "3.8": {"none": 1}}


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=3)), max_size=30))
def test_confusion_counts_every_row(pairs: list[tuple[int, str]]) -> None:
    table = confusion(MNLI, [gold for gold, _ in pairs], [text for _, text in pairs], "synthetic")
    assert sum(sum(row.values()) for row in table.values()) == len(pairs)
    assert list(table) == [f"B{k}" for k in range(3) if f"B{k}" in table]
    for row in table.values():
        assert all(before >= after for before, after in pairwise(row.values()))


def test_em_is_the_share_of_questions_that_are_right_in_every_answer() -> None:
    task = TASKS["multirc"]
    golds, groups = [1, 0, 1, 0, 0, 1], [0, 0, 1, 1, 2, 2]
    said = ["True", "False", "True", "maybe", "False", "True"]
    scores = score(task, golds, said, "natural", groups)
    assert list(scores) == ["f1", "em"]
    assert scores["em"] == pytest.approx(100 * 2 / 3)
    # An answer that is no label counts as the other one: three hits, one false alarm.
    assert scores["f1"] == pytest.approx(100 * f1_score(golds, [1, 0, 1, 1, 0, 1]))
    with pytest.raises(ValueError, match="em needs the groups"):
        score(task, golds, said, "natural")


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(0, 1)), min_size=1))
def test_f1a_and_em_against_scikit_learn_and_loops(rows: list[tuple[int, int, int]]) -> None:
    groups, golds, found = ([row[k] for row in rows] for k in range(3))
    scores = score(TASKS["record"], golds, [str(k) for k in found], "numeric", groups)
    assert scores["f1"] == pytest.approx(100 * f1_score(golds, found, zero_division=0))
    right = [all(gold == k for group, gold, k in rows if group == question) for question in dict.fromkeys(groups)]
    assert scores["em"] == pytest.approx(100 * sum(right) / len(right))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1))
def test_cb_has_the_mean_f1_of_its_three_classes(pairs: list[tuple[int, int]]) -> None:
    golds, found = ([pair[k] for pair in pairs] for k in range(2))
    scores = score(TASKS["cb"], golds, [TASKS["cb"].labels[k] for k in found], "natural")
    assert list(scores) == ["accuracy", "f1"]
    assert scores["accuracy"] == pytest.approx(100 * accuracy_score(golds, found))
    macro = f1_score(golds, found, labels=[0, 1, 2], average="macro", zero_division=0)
    assert scores["f1"] == pytest.approx(100 * macro)
