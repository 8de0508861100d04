"""Answers: those of `evaluate`, in the order of the rows, whatever form these have."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
import torch
from datasets import Dataset

import compt_fast
from compt_fast import Answer, Predictor, load
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.prediction import predictor as module
from compt_fast.prediction.prompts import read_all
from compt_fast.utils.errors import InputError
from tests.helpers.tiny_t5 import SIZES, make_t5
from tests.prediction.conftest import Records, evaluated

SPP, SCP, APART = "spp-n3-k4-s0", "scp-n3-k4-s0", "pt-k4-s0"


@pytest.fixture(scope="module")
def spp(runs: Path) -> Predictor:
    return load(runs, run=SPP)


def of(records: Records, run: str) -> Records:
    """The records of a run, or of the runs of a method that trains tasks apart, tasks mixed."""
    found = [record for record in records if record["run"].startswith(run)]
    assert len({record["task"] for record in found}) == 3
    return sorted(found, key=lambda record: record["row"])


def rows_of(records: Records) -> list[dict[str, Any]]:
    """The rows that records are of, with their tasks."""
    return [{"task": record["task"], "sentence": record["columns"]["sentence"]} for record in records]


@pytest.mark.parametrize("engine", ["fast", "reference"])
@pytest.mark.parametrize("run", [SPP, SCP, APART])
def test_answers_are_those_of_evaluate(run: str, engine: str, runs: Path, written: Records, ranked: Records) -> None:
    """Prompts of each row, prompts of 2m tokens, and of tasks that were trained apart, all tasks mixed."""
    predictor = load(runs, run=run, engine=engine)
    assert set(predictor.tasks) == {"toy_a", "toy_b", "toy_c"}
    records = of(written, run)
    answers = predictor.predict(rows_of(records), scores=True, batch_size=7)
    assert [(answer.task, answer.text) for answer in answers] == [(r["task"], r["prediction"]) for r in records]
    best = {(r["task"], r["row"]): r["prediction"] for r in of(ranked, run)}
    for answer, record in zip(answers, records, strict=True):
        assert answer.scores is not None and sum(answer.scores.values()) == pytest.approx(1, abs=1e-5)
        likely = max(answer.scores, key=answer.scores.__getitem__)
        assert likely == best[record["task"], record["row"]]
        if answer.text not in answer.scores:
            assert answer.label == (float(likely) if answer.task == "toy_c" else likely)
        else:
            assert answer.label == (float(answer.text) if answer.task == "toy_c" else answer.text)


def test_what_is_off_label_is_no_label_without_scores(spp: Predictor, written: Records) -> None:
    answers = spp.predict(rows_of(of(written, SPP)))
    off = [answer for answer in answers if answer.text not in ("good", "bad", *"012345")]
    assert off and all(answer.label is None and answer.scores is None and answer.text for answer in off)


def answer_so(monkeypatch: pytest.MonkeyPatch, texts: list[str], likely: list[float]) -> None:
    """Let trunks write these texts, and find labels so likely, whatever they read."""
    both = lambda *given: ([], [torch.tensor(likely)] * len(texts))  # noqa: E731
    monkeypatch.setattr(module, "texts_of", lambda *given: texts)
    monkeypatch.setattr(PackedTrunk, "generate_and_score", both)


def test_scores_are_numbers(spp: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between the steps of the scale, as they are scored; and what is no number is none."""
    answer_so(monkeypatch, ["3", "2.7", "nan", "good"], [0.0, 0.0, 0.0, 0.0, 2.0, 0.0])
    rows = [{"sentence": "a"}] * 4
    assert [answer.label for answer in spp.predict(rows, "toy_c")] == [3.0, 2.7, None, None]
    assert [answer.label for answer in spp.predict(rows, "toy_c", scores=True)] == [3.0, 2.7, 4.0, 4.0]


def test_labels_are_the_tasks_words(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the trunk writes for them."""
    prompts = read_all([runs], SPP)
    trunk = load(runs, run=SPP).trunk
    numeric = {name: replace(one, text=replace(one.text, label_mode="numeric")) for name, one in prompts.items()}
    predictor = Predictor(trunk, numeric)
    answer_so(monkeypatch, ["1", "good"], [2.0, 0.0])
    first, second = predictor.predict([{"sentence": "a"}] * 2, "toy_a", scores=True)
    assert (first.label, first.text, list(first.scores or ())) == ("good", "1", ["bad", "good"])
    assert (second.label, second.text) == ("bad", "good")


def test_rows_of_two_artifacts_are_answered_together(runs: Path, other: Path, written: Records, tmp_path: Path) -> None:
    """Prompts of 2 and 5 tokens, and per row and not, in one batch: each row as with its own alone."""
    mine, theirs = of(written, SPP), evaluated(other, tmp_path / "rows.jsonl", "--scoring=generate")
    predictor = load(runs / "prompts" / SPP, other)
    assert set(predictor.tasks) == {"toy_a", "toy_b", "toy_c", "toy_d"}
    records = [record for pair in zip(mine, theirs * 3, strict=True) for record in pair]
    answers = predictor.predict(rows_of(records))
    assert [answer.task for answer in answers] == [record["task"] for record in records]
    assert [answer.text for answer in answers] == [record["prediction"] for record in records]


def test_forms_of_rows(spp: Predictor, written: Records) -> None:
    rows = rows_of(of(written, SPP))
    expected = spp.predict(rows)
    frame = pd.DataFrame(rows)
    for form in (iter(rows), frame, frame.set_index("task", drop=False), Dataset.from_list(rows), pl.DataFrame(rows)):
        assert spp.predict(form) == expected
    one = spp.predict(rows[0])
    assert isinstance(one, Answer) and one == expected[0]
    assert spp.predict([]) == [] and spp.predict(frame[:0]) == []
    by_task = {name: spp.predict([row for row in rows if row["task"] == name], name) for name in spp.tasks}
    assert Counter(a for answers in by_task.values() for a in map(repr, answers)) == Counter(map(repr, expected))


def test_a_stream_holds_few_rows(spp: Predictor, written: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AHEAD", 5)
    rows = rows_of(of(written, SPP))
    taken = 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal taken
        for row in rows:
            taken += 1
            yield row

    answers = []
    for number, answer in enumerate(spp.stream(counted()), start=1):
        answers.append(answer)
        assert taken <= -(-number // 5) * 5
    assert taken == len(rows) and answers == spp.predict(rows)


def test_set_answers_the_rows_after(runs: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AHEAD", 2)
    predictor = load(other)
    before = predictor.prompts
    answers = predictor.stream(iter([{"sentence": "a"}] * 4))
    assert next(answers).task == "toy_d"
    predictor.set(read_all([runs], SPP))
    assert next(answers).task == "toy_d", "it was read before"
    with pytest.raises(InputError, match="row 3: of which task is it"):
        next(answers)
    assert set(predictor.tasks) == {"toy_a", "toy_b", "toy_c"}
    with pytest.raises(InputError, match="cannot write"):
        predictor.set(before | read_all([runs], SPP) | {"x": unwritable(before["toy_d"])})
    assert set(predictor.tasks) == {"toy_a", "toy_b", "toy_c"}, "nothing is changed then"


def test_answers_depend_on_no_other_prompts(runs: Path, other: Path, written: Records) -> None:
    """Nor on which of a run's tasks are taken."""
    records = [record for record in of(written, SPP) if record["task"] == "toy_a"]
    answers = load(runs, run=SPP, task="toy_a").predict(rows_of(records))
    assert [answer.text for answer in answers] == [record["prediction"] for record in records]


def unwritable(prompt: Any) -> Any:
    """A prompt of a task one of whose labels the tokenizer does not know."""
    return replace(prompt, task=replace(prompt.task, name="x", labels=("good", "schön ☃")))


def test_labels_that_the_tokenizer_cannot_write(other: Path) -> None:
    predictor = load(other)
    with pytest.raises(InputError, match="x: the trunk's tokenizer cannot write the label 'schön ☃'"):
        Predictor(predictor.trunk, {"x": unwritable(predictor.prompts["toy_d"])})


def test_keep_going_answers_by_what_is_wrong(spp: Predictor) -> None:
    rows = [{"task": "toy_a", "sentence": "a"}, {"task": "toy_a"}, {"task": "toy_a", "sentence": "a"}]
    first, wrong, last = spp.stream(rows, keep_going=True)
    assert first == last and first.error is None
    assert wrong.task == "toy_a"
    assert wrong.error == "row 2: no column 'sentence'; a row of toy_a has 'sentence'" and wrong.label is None
    assert [answer.error for answer in spp.stream([{}], "toy_b", keep_going=True)][0]
    with pytest.raises(InputError, match="batch_size is 0"):
        next(spp.stream(rows, batch_size=0))


def test_another_trunk(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=f"{SPP} belongs to trunk .* whose weights differ"):
        load(runs, run=SPP, model=str(make_t5(tmp_path / "other", seed=1)))
    monkeypatch.setitem(SIZES, "wide", (64, 8, 2, 32, 1, 1))
    with pytest.raises(InputError, match="d_model 32 does not fit trunk"):
        load(runs, run=SPP, model=str(make_t5(tmp_path / "wide", size="wide")))
    with pytest.raises(InputError, match="nowhere"):
        load(runs, run=SPP, model=str(tmp_path / "nowhere"))


def test_the_trunk_moved_and_another_dtype(runs: Path, tiny_t5: Path, tmp_path: Path, written: Records) -> None:
    """The weights are compared in the precision of the training, whatever the precision of the prediction."""
    moved = shutil.copytree(tiny_t5, tmp_path / "moved")
    predictor = load(runs, run=SPP, model=str(moved), dtype="bf16")
    assert str(predictor.trunk.dtype) == "torch.bfloat16"
    records = of(written, SPP)
    answers = predictor.predict(rows_of(records))
    assert sum(a.text == r["prediction"] for a, r in zip(answers, records, strict=True)) > len(records) / 2


@pytest.mark.parametrize(("name", "value"), [("dtype", "fp61"), ("engine", "fats"), ("device", "tpu")])
def test_settings_of_no_choice(name: str, value: str, runs: Path) -> None:
    with pytest.raises(InputError, match=f"{name} '{value}'"):
        load(runs, run=SPP, **{name: value})  # type: ignore[arg-type]


def test_the_interface_is_of_the_package() -> None:
    assert compt_fast.load is load and compt_fast.Predictor is Predictor
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = compt_fast.laod
