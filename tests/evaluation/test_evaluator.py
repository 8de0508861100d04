"""Scoring of one run's prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from compt_fast.evaluation import evaluator
from compt_fast.evaluation.evaluator import average, predict, prompts_for
from compt_fast.evaluation.passes import Asked
from compt_fast.models.batch import make_batch
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.prompts.artifact import RunPrompts
from compt_fast.runs.job import Job
from compt_fast.training.cohort import Cohort, Member
from tests.helpers import jobs


@pytest.fixture(scope="module")
def job(tiny_t5: Path, toys: list[Path]) -> Job:
    return jobs.opened(jobs.settings(tiny_t5, toys, gates="input", eval_size=10))


@pytest.fixture(scope="module")
def prompts(job: Job) -> RunPrompts:
    (run,) = job.runs
    cohort = Cohort(run.shape, job.trunk.embedding)
    cohort.admit(Member(run, job.data.training(run.config)))
    assert cohort.bank is not None
    with torch.no_grad():
        for p in cohort.bank.params.values():
            p.mul_(20)
    return cohort.prompts(0)


def scored(job: Job, prompts: RunPrompts, **changes: Any) -> dict[str, Any]:
    chosen: dict[str, Any] = {"scoring": "rank", "batch_size": 7} | changes
    asked = Asked(job.trunk, prompts, job.data.evaluation(), "natural")
    ((_, predicted),) = predict(job.data, [asked], **chosen)
    return evaluator.scored(asked.sets, predicted, "natural")


@pytest.mark.parametrize("scoring", ["rank", "generate"])
def test_every_row_is_predicted_as_it_would_be_alone(scoring: str, job: Job, prompts: RunPrompts) -> None:
    expected: dict[str, dict[str, int]] = {}
    for task, rows in enumerate(job.data.evaluation()):
        labels = job.data.label_ids(rows.task, "natural")
        words = job.data.tokenizer.batch_decode(labels, skip_special_tokens=True)
        for input_ids in rows.inputs:
            targets, batch = prompts_for(prompts, job.trunk, make_batch([input_ids], None, [task]))
            if scoring == "rank":
                (scores,) = job.trunk.label_scores(targets, batch, [labels])
                text = words[int(scores.argmax())]
            else:
                longest = job.data.longest_label("natural")
                (ids,) = job.trunk.generate(targets, batch, max_new_tokens=longest)
                text = job.data.tokenizer.decode(ids, skip_special_tokens=True).strip()
            counts = expected.setdefault(rows.task.name, {})
            counts[text] = counts.get(text, 0) + 1
    tasks = scored(job, prompts, scoring=scoring)
    for name, entry in tasks.items():
        got: dict[str, int] = {}
        for counts in entry["predictions"].values():
            for text, count in counts.items():
                got[text] = got.get(text, 0) + count
        assert got == expected[name]
        assert entry["n"] == 10


def test_scores_follow_from_the_predictions(job: Job, prompts: RunPrompts) -> None:
    tasks = scored(job, prompts)
    entry = tasks["toy_a"]
    right = sum(counts.get(gold, 0) for gold, counts in entry["predictions"].items())
    assert entry["primary"] == "accuracy" and entry["scores"] == {"accuracy": 10.0 * right}
    assert set(entry["predictions"]) <= {"bad", "good"}
    assert list(tasks["toy_c"]["scores"]) == ["spearman", "pearson"]
    assert tasks["toy_c"]["primary"] == "spearman"
    assert average(tasks) == pytest.approx(
        (tasks["toy_a"]["scores"]["accuracy"] + tasks["toy_b"]["scores"]["accuracy"]) / 3
        + tasks["toy_c"]["scores"]["spearman"] / 3
    )


def test_ranking_predicts_labels_and_generation_whatever_comes(
    job: Job, prompts: RunPrompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranked = scored(job, prompts)
    for name in ("toy_a", "toy_b"):
        for counts in ranked[name]["predictions"].values():
            assert set(counts) <= {"bad", "good"}
    ids = job.data.tokenizer(" dog ")["input_ids"]
    monkeypatch.setattr(PackedTrunk, "generate", lambda self, p, batch, *rest: [ids] * batch.rows)
    generated = scored(job, prompts, scoring="generate")
    for entry in generated.values():
        assert all(set(counts) == {"dog"} for counts in entry["predictions"].values())
    assert generated["toy_a"]["scores"] == {"accuracy": 0.0}
    assert generated["toy_c"]["scores"] == {"spearman": 0.0, "pearson": 0.0}


def test_new_tokens_are_bounded_by_the_longest_label(
    job: Job, prompts: RunPrompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[int] = set()

    def generate(self: Any, p: Any, batch: Any, max_new_tokens: int, input_update: None) -> list[list[int]]:
        asked.add(max_new_tokens)
        return [[] for _ in range(batch.rows)]

    monkeypatch.setattr(PackedTrunk, "generate", generate)
    tasks = scored(job, prompts, scoring="generate")
    assert asked == {job.data.longest_label("natural")}
    assert all(set(c) == {""} for entry in tasks.values() for c in entry["predictions"].values())


def test_a_signal_is_looked_for_after_every_pass(job: Job, prompts: RunPrompts) -> None:
    calls: list[int] = []
    scored(job, prompts, batch_size=8, after_pass=lambda: calls.append(1))
    assert len(calls) == 4  # 30 rows


def test_rows_of_a_question_are_scored_as_one(tiny_t5: Path) -> None:
    """The rows that a job scores are whole questions, and what is right of a question in part is wrong."""
    given = {"model": str(tiny_t5), "tasks": "mini_multirc", "eval_size": "5", "shots": "4"}
    job = jobs.opened(given)
    (rows,) = job.data.evaluation()
    assert rows.groups is not None and len(rows.groups) == len(rows.inputs) == 4, "a third question would make six"
    assert [rows.groups.count(group) for group in set(rows.groups)] == [2, 2]
    words = [rows.task.labels[int(gold)] for gold in rows.golds]
    assert evaluator.scored([rows], [words], "natural")["mini_multirc"]["scores"] == {"f1": 100, "em": 100}
    words[0] = "neither"
    assert evaluator.scored([rows], [words], "natural")["mini_multirc"]["scores"]["em"] == 50
