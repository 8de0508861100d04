"""Runs whose answers are no labels: what is said of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from compt_fast.config.flags import read_flags
from compt_fast.runs.answers import MOST_LINES, off_label_notes
from compt_fast.tasks.table import TASKS
from compt_fast.training.plan import Run, plan_runs
from compt_fast.training.results import RunResult

RTE, STSB = TASKS["rte"], TASKS["stsb"]


def runs(**given: str) -> list[Run]:
    return plan_runs(read_flags({"method": "pt-joint", **given}, None), tasks=["rte", "stsb"], d_model=8)


def result(run: Run, rte: dict[str, int], stsb: dict[str, int]) -> RunResult:
    tasks: dict[str, Any] = {
        task.name: {"primary": "accuracy", "scores": {"accuracy": 0.0}, "n": 2, "predictions": {"gold": answers}}
        for task, answers in ((RTE, rte), (STSB, stsb))
    }
    return RunResult.finished(run, tasks, 0.0)


def test_a_task_of_which_no_answer_is_a_label_is_named_with_what_was_answered() -> None:
    (run,) = runs()
    nonsense = Counter({"": 2, "the the": 30, "a | b\nc": 1, "x" * 60: 5})
    task, hint = off_label_notes([result(run, nonsense, {"3.8": 1})], [run], [RTE, STSB])
    assert task == (
        "pt-joint-k16-s0, rte: none of 38 answers is a label: 'the the' (30), "
        f"'{'x' * 40}…' (5), '' (2), 1 other string"
    )
    assert hint.startswith("--scoring rank takes the most likely of the labels")
    score, _ = off_label_notes([result(run, {"entailment": 1, "the": 9}, {"entailment": 9})], [run], [RTE, STSB])
    assert score == "pt-joint-k16-s0, stsb: none of 9 answers is a number: 'entailment' (9)"


def test_one_label_is_enough_and_labels_are_those_of_the_run() -> None:
    (run,) = runs()
    assert off_label_notes([result(run, {"entailment": 1, "the": 99}, {"4.97": 1})], [run], [RTE, STSB]) == []
    (run,) = runs(label_mode="numeric")
    notes = off_label_notes([result(run, {"entailment": 9}, {"1": 1})], [run], [RTE, STSB])
    assert notes[0] == "pt-joint-k16-s0, rte: none of 9 answers is a label: 'entailment' (9)"
    assert off_label_notes([RunResult.stopped(run, "loss")], [run], [RTE, STSB]) == []


def test_many_are_cut_short() -> None:
    many = runs(seeds="0,1,2,3,4,5,6,7,8,9")
    notes = off_label_notes([result(run, {"the": 9}, {"the": 9}) for run in many], many, [RTE, STSB])
    assert len(notes) == MOST_LINES + 2 and notes[-2] == "and 12 more lines like these"


def test_baselines_of_which_no_answer_is_a_label_are_told_of_their_rate() -> None:
    plain, full, small = runs(method="pt-joint,finetune-m,adapter-m")
    off, on = {"the": 9}, {"entailment": 9}
    ended = [result(plain, off, off), result(full, off, off), result(small, on, {"1.0": 9})]
    rate, rank = off_label_notes(ended, [plain, full, small], [RTE, STSB])[-2:]
    assert rate.startswith("--lr sets the rate of finetune-m, which may be too low")
    assert rank.startswith("--scoring rank")
    assert not any("--lr" in line for line in off_label_notes(ended[:1], [plain], [RTE, STSB]))
