"""Rows of a job: drawn by seed, encoded once, scored on rows that no seed changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compt_fast.runs.job import Job
from compt_fast.tasks.examples import JobData
from compt_fast.training.plan import Run
from compt_fast.utils.errors import InputError
from tests.helpers import jobs


@pytest.fixture(scope="module")
def job(tiny_t5: Path, toys: list[Path]) -> Job:
    return jobs.opened(jobs.settings(tiny_t5, toys))


@pytest.fixture
def run(job: Job, tiny_t5: Path, toys: list[Path]) -> Any:
    def one(**changes: Any) -> Run:
        chosen = jobs.settings(tiny_t5, toys, **changes)
        (planned,) = jobs.planned(job.trunk, [path.stem for path in toys], chosen)
        return planned

    return one


def test_training_rows_are_so_many_a_task(job: Job, run: Any) -> None:
    rows = job.data.training(run(shots=6).config)
    assert [row.task for row in rows] == [0] * 6 + [1] * 6 + [2] * 6
    assert all(row.input_ids[-1] == row.label_ids[-1] == 1 for row in rows)
    words = job.data.tokenizer.batch_decode([r.label_ids for r in rows], skip_special_tokens=True)
    assert sorted(words[:6]) == ["bad"] * 3 + ["good"] * 3
    assert set(words[12:]) <= set("012345")
    assert job.data.tokenizer.decode(rows[0].input_ids).startswith("toy_a: sentence: ")


def test_the_seed_draws_the_examples(job: Job, run: Any) -> None:
    one, again, other = (job.data.training(run(seeds=seed).config) for seed in (0, 0, 1))
    assert one == again != other
    assert job.data.training(run(method="pt-joint").config) == one, "the method does not"


def test_label_modes(job: Job, run: Any) -> None:
    decode = job.data.tokenizer.batch_decode
    for mode, words in (("numeric", {"0", "1"}), ("natural", {"bad", "good"})):
        rows = job.data.training(run(label_mode=mode).config)[:8]
        assert set(decode([r.label_ids for r in rows], skip_special_tokens=True)) == words


def test_a_label_that_the_tokenizer_cannot_write(tiny_t5: Path, tmp_path: Path) -> None:
    path = jobs.toy_task(tmp_path, "toy")
    path.write_text(path.read_text().replace('"good"', '"sch\u00f6n"'), encoding="utf-8")
    with pytest.raises(InputError, match="toy: the trunk's tokenizer cannot write the label 'sch\u00f6n'"):
        jobs.opened(jobs.settings(tiny_t5, [path]))
    jobs.opened(jobs.settings(tiny_t5, [path], label_mode="numeric")).data.check_labels("synthetic")


def test_full_takes_at_most_max_train(job: Job, run: Any) -> None:
    rows = job.data.training(run(shots="full", max_train=7).config)
    assert len(rows) == 21
    assert len(job.data.training(run(shots="full").config)) == 3 * 48
    selecting = JobData(job.data.tasks, job.flags | {"select": "best"}, job.data.tokenizer)
    assert len(selecting.training(run(shots="full").config)) == 3 * (48 - 4), "a tenth is set aside for development"


def test_the_development_sample_shares_no_row_with_training(job: Job, run: Any) -> None:
    config = run(shots=10).config
    for task, sample in enumerate(job.data.development(config, {})):
        trained = [row.input_ids for row in job.data.training(config) if row.task == task]
        assert len(sample.inputs) == len(sample.golds) == 10
        # Short toy sentences may occur twice in the data; most do not.
        assert sum(ids in trained for ids in sample.inputs) <= 2


def test_evaluation_rows_are_the_same_for_all(job: Job) -> None:
    sets = job.data.evaluation()
    assert [s.task.name for s in sets] == ["toy_a", "toy_b", "toy_c"]
    assert [len(s.inputs) for s in sets] == [6, 6, 6]
    assert sets == job.data.evaluation()


def test_a_text_is_encoded_once(job: Job, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = JobData(job.data.tasks, job.flags, job.data.tokenizer)
    calls: list[Any] = []
    encode = JobData._encode
    monkeypatch.setattr(JobData, "_encode", lambda self, *a, **k: calls.append(a) or encode(self, *a, **k))
    data.training(run().config)
    first = len(calls)
    data.training(run(method="pt-joint").config)
    assert first == len(calls) == 12


def test_prefix_and_length(tiny_t5: Path, toys: list[Path], run: Any) -> None:
    flags = jobs.opened(jobs.settings(tiny_t5, toys, max_source_length=12))
    rows = flags.data.training(run().config)
    assert max(len(row.input_ids) for row in rows) == 12
    bare = JobData(flags.data.tasks, flags.flags | {"prefix": False}, flags.data.tokenizer)
    text = bare.tokenizer.decode(bare.training(run().config)[0].input_ids)
    assert text.startswith("sentence: ")


def test_no_room_for_the_text(tiny_t5: Path, toys: list[Path], run: Any) -> None:
    job = jobs.opened(jobs.settings(tiny_t5, toys, max_source_length=5))
    with pytest.raises(InputError, match="toy_a: an input of 5 tokens leaves no room"):
        job.data.training(run().config)


def test_the_longest_label(job: Job) -> None:
    ids = [job.data.tokenizer(word)["input_ids"] for word in ("bad", "good", "0", "5")]
    assert job.data.longest_label("natural") == max(map(len, ids))
