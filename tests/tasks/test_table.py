from dataclasses import replace

import pytest

from compt_fast.tasks.table import EMBEDDED, METRICS, SUITES, TASKS

PAPER_SUITES = {
    "glue": "cola mnli mrpc qnli qqp rte sst2 stsb",
    "set2": "imdb mrpc multinli paws scitail yelp_polarity",
    "crosspt-set2": "imdb mrpc multinli paws scitail yelp_polarity stsb2",
}


def test_suites_hold_the_papers_tasks() -> None:
    for suite, tasks in PAPER_SUITES.items():
        assert SUITES[suite] == tuple(tasks.split())
    assert SUITES["mini"] == tuple(f"mini_{name}" for name in PAPER_SUITES["glue"].split())
    assert SUITES["mini2"] == tuple(f"mini_{name}" for name in PAPER_SUITES["set2"].split())
    assert all(name in TASKS for suite in SUITES.values() for name in suite)


@pytest.mark.parametrize("name", TASKS)
def test_every_entry_is_sound(name: str) -> None:
    task = TASKS[name]
    assert task.name == name
    assert 1 <= len(task.fields) <= 2
    assert set(task.metrics) <= set(METRICS)
    assert task.primary == ("spearman" if task.is_score else "accuracy")
    assert len(task.labels) != 1 and len(set(task.labels)) == len(task.labels)
    assert not task.label_values or len(task.label_values) == len(task.labels)
    assert (task.origin == "hub") == bool(task.dataset)


def test_letters_are_one_a_kind() -> None:
    hub = [task for task in TASKS.values() if task.origin == "hub"]
    assert sorted(task.letter for task in hub) == list("ABCDEFGHIJKLMN")
    for suite in SUITES.values():
        assert len({TASKS[name].letter for name in suite}) == len(suite)


def test_embedded_tasks_read_like_their_models() -> None:
    for name in (*SUITES["mini"], *SUITES["mini2"]):
        mini, model = TASKS[name], TASKS[name.removeprefix("mini_")]
        assert [text for _, text in mini.fields] == [text for _, text in model.fields]
        assert [column for column, _ in mini.fields] == ["sentence1", "sentence2"][: len(mini.fields)]
        assert (mini.prefix, mini.labels, mini.metrics) == (
            model.prefix,
            model.labels,
            model.metrics,
        )


def test_each_suite_and_task_has_an_embedded_kind_but_for_one() -> None:
    assert {*SUITES, *TASKS} - set(EMBEDDED) == {"stsb2"}
    assert {name: EMBEDDED[name] for name in SUITES} == {
        "mini": "mini",
        "mini2": "mini2",
        "glue": "mini",
        "set2": "mini2",
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
    splits = {name: TASKS[name].eval_split for name in TASKS if TASKS[name].origin == "hub"}
    assert {name for name, split in splits.items() if split == "test"} == {
        *("imdb", "paws", "scitail", "yelp_polarity")
    }
    assert splits["mnli"] == splits["multinli"] == "validation_matched"


def test_is_score_follows_from_labels() -> None:
    assert TASKS["stsb"].is_score and not TASKS["stsb2"].is_score
    assert not replace(TASKS["stsb"], labels=("low", "high")).is_score
