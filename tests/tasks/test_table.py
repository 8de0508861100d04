from dataclasses import replace

import pytest

from compt_fast.tasks.table import EMBEDDED, METRICS, SUITES, TASKS

PAPER_SUITES = {
    "glue": "cola mnli mrpc qnli qqp rte sst2 stsb",
    "set2": "imdb mrpc multinli paws scitail yelp_polarity",
    "crosspt-set2": "imdb mrpc multinli paws scitail yelp_polarity stsb2",
    "superglue": "boolq cb copa multirc record wic wsc",
    "others": "paws scitail winogrande yelp_polarity",
}
OPTIONS = (("choice2",), ("option2",))
EMBEDDED_SUITES = {"glue": "mini", "set2": "mini2", "superglue": "mini3", "others": "mini4"}


def test_suites_hold_the_papers_tasks() -> None:
    for suite, tasks in PAPER_SUITES.items():
        assert SUITES[suite] == tuple(tasks.split())
    for suite, kind in EMBEDDED_SUITES.items():
        assert SUITES[kind] == tuple(f"mini_{name}" for name in PAPER_SUITES[suite].split())
    assert all(name in TASKS for suite in SUITES.values() for name in suite)


@pytest.mark.parametrize("name", TASKS)
def test_every_entry_is_sound(name: str) -> None:
    task = TASKS[name]
    assert task.name == name
    assert 1 <= len(task.fields) <= 4
    assert set(task.metrics) <= set(METRICS)
    assert task.primary == ("spearman" if task.is_score else "f1" if task.group else "accuracy")
    assert bool(task.group) == ("em" in task.metrics)
    assert len(task.labels) != 1 and len(set(task.labels)) == len(task.labels)
    assert not task.label_values or len(task.label_values) == len(task.labels)
    assert (task.origin == "hub") == bool(task.dataset)


def test_letters_are_one_a_kind() -> None:
    hub = [task for task in TASKS.values() if task.origin == "hub"]
    assert [task.letter for task in hub] == [*"ABCDEFGHIJKLMN", *(f"S{second}" for second in "ABCDEFGH")]
    for suite in SUITES.values():
        assert len({TASKS[name].letter for name in suite}) == len(suite)


def test_embedded_tasks_read_like_their_models() -> None:
    for name in (name for kind in EMBEDDED_SUITES.values() for name in SUITES[kind]):
        mini, model = TASKS[name], TASKS[name.removeprefix("mini_")]
        assert [text for _, text in mini.fields] == [text for _, text in model.fields]
        assert [column for column, _ in mini.fields] == [f"sentence{k + 1}" for k in range(len(mini.fields))]
        # The embedded trunk says no word that ends in a number.
        labels = tuple(map(str.lower, model.labels)) if model.labels[-1:] not in OPTIONS else ("alpha", "beta")
        assert (mini.prefix, mini.labels, mini.metrics) == (model.prefix, labels, model.metrics)


def test_each_suite_and_task_has_an_embedded_kind_but_for_one() -> None:
    assert {*SUITES, *TASKS} - set(EMBEDDED) == {"stsb2"}
    assert {name: EMBEDDED[name] for name in SUITES} == {
        **{kind: kind for kind in EMBEDDED_SUITES.values()},
        **EMBEDDED_SUITES,
        "crosspt-set2": "mini2",
    }
    for name, kind in EMBEDDED.items():
        assert kind in (SUITES if name in SUITES else TASKS) and EMBEDDED[kind] == kind
        assert name in SUITES or kind == f"mini_{name.removeprefix('mini_')}"


def test_metrics_and_splits_of_the_papers() -> None:
    metrics = {name: TASKS[name].metrics for name in SUITES["glue"]}
    assert metrics["cola"] == ("accuracy", "matthews")
    assert metrics["mrpc"] == metrics["qqp"] == ("accuracy", "f1")
    assert metrics["stsb"] == ("spearman", "pearson")
    assert {name: TASKS[name].metrics for name in SUITES["superglue"]} == {
        **dict.fromkeys(("boolq", "copa", "wic", "wsc"), ("accuracy",)),
        "cb": ("accuracy", "f1"),
        **dict.fromkeys(("multirc", "record"), ("f1", "em")),
    }
    splits = {name: TASKS[name].eval_split for name in TASKS if TASKS[name].origin == "hub"}
    assert {name for name, split in splits.items() if split == "test"} == {
        *("imdb", "paws", "scitail", "yelp_polarity")
    }
    assert splits["mnli"] == splits["multinli"] == "validation_matched"


def test_is_score_follows_from_labels() -> None:
    assert TASKS["stsb"].is_score and not TASKS["stsb2"].is_score
    assert not replace(TASKS["stsb"], labels=("low", "high")).is_score
