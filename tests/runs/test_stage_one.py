"""The jobs that train source prompts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compt_fast.config.flags import read_flags
from compt_fast.prompts.artifact import TextFormat
from compt_fast.prompts.store import PromptStore
from compt_fast.runs.initialisation import Need, entry_name
from compt_fast.runs.job import Job, prepare_folder
from compt_fast.runs.stage_one import keep, open_stage_one, stage_one_settings
from compt_fast.training.results import RunResult
from compt_fast.utils.errors import InputError
from tests.helpers import jobs

LACKING = [Need("toy_b", 2, "natural"), Need("mini_rte", 2, "natural"), Need("toy_b", 3, "numeric")]


@pytest.fixture(scope="module")
def job(tiny_t5: Path, toys: list[Path]) -> Job:
    """A job whose own flags differ from the defaults wherever they can be told apart."""
    return jobs.opened(jobs.settings(tiny_t5, toys, method="sil", lr_source="0.5", seeds="3,4", prefix=None))


def test_its_flags(job: Job) -> None:
    jobs_of = stage_one_settings(replace(job.settings, source_examples=70, source_steps=9), LACKING)
    assert list(jobs_of) == [(2, "natural", (), ()), (3, "numeric", (), ())]
    first, second = jobs_of.values()
    assert (first.tasks, first.exclude, first.suite) == (["toy_b", "mini_rte"], ["toy_a", "toy_c"], None)
    own = first.sweep.values
    assert (second.tasks, second.sweep.values["prompt_length"], second.sweep.values["label_mode"]) == (
        ["toy_b"],
        [3],
        ["numeric"],
    )
    assert first.sweep.methods == ["p"] and first.apart is True and own["seed"] == [0]
    assert (own["shots"], own["max_train"], own["steps"]) == (["full"], [70], [9])
    assert "lr_source" not in own and own["batch_size"] == [16]
    same = ("model", "task_file", "prefix", "max_source_length", "eval_size", "dtype", "scoring", "runs_at_once")
    assert all(getattr(first, key) == getattr(job.settings, key) for key in same)
    assert "steps" not in stage_one_settings(job.settings, LACKING)[2, "natural", (), ()].sweep.values
    assert stage_one_settings(job.settings, []) == {}


def test_what_tasks_share_is_trained_by_mst_and_goes_to_the_store_as_one(job: Job, tmp_path: Path) -> None:
    shared = Need("toy_b", 2, "natural", ("toy_a",))
    (kind, settings), (_, other) = stage_one_settings(job.settings, [shared, LACKING[0]]).items()
    assert kind == (2, "natural", ("toy_b", "toy_a"), ())
    assert (settings.sweep.methods, settings.tasks, settings.apart) == (["mst"], ["toy_b", "toy_a"], False)
    assert (other.sweep.methods, other.tasks, other.apart) == (["p"], ["toy_b"], True)
    short = Job(replace(job.settings, source_steps=1), job.trunk, job.trunk_hash, job.data, job.runs)
    ((folder, own),) = open_stage_one(tmp_path, short, [shared])
    assert folder.name == "sources-joint-m2"
    trainer = jobs.train(own, own.runs, folder)
    store = PromptStore(tmp_path / "store")
    keep(store, folder, trainer.ended)
    (name,) = store.names()
    assert name == entry_name(shared, TextFormat(prefix=True)) and store.load(name).tasks == ("toy_b", "toy_a")


def test_it_has_a_run_a_task_over_the_same_trunk_and_a_folder_of_its_own(job: Job, tmp_path: Path) -> None:
    def opened(lacking: list[Need], **changes: Any) -> list[tuple[Path, Job]]:
        changed = Job(replace(job.settings, **changes), job.trunk, job.trunk_hash, job.data, job.runs)
        return open_stage_one(tmp_path, changed, lacking)

    first, second = opened(LACKING)
    assert [run.id for run in first[1].runs] == ["p-full-s0-toy_b", "p-full-s0-mini_rte"]
    assert first[1].trunk is job.trunk
    assert [path.name for path, _ in (first, second)] == ["sources-m2", "sources-m3-numeric"]
    for path, own in (first, second):
        prepare_folder(path, own, [])
    assert [path.name for path, _ in opened(LACKING)] == ["sources-m2", "sources-m3-numeric"]
    assert [path.name for path, _ in opened(LACKING[1:], runs_at_once=3)] == ["sources-m2-2", "sources-m3-numeric"]
    assert [run.id for run in opened(LACKING)[0][1].runs] == [run.id for run in first[1].runs]
    assert read_flags({}, str(first[0] / "config.json")).apart is True
    assert json.loads((first[0] / "config.json").read_text())["runs"].keys() == {run.id for run in first[1].runs}


def test_its_prompts_go_to_the_store(job: Job, tmp_path: Path) -> None:
    short = Job(replace(job.settings, source_steps=2), job.trunk, job.trunk_hash, job.data, job.runs)
    ((folder, own),) = open_stage_one(tmp_path, short, LACKING[:2])
    trainer = jobs.train(own, own.runs, folder)
    store = PromptStore(tmp_path / "store")
    keep(store, folder, trainer.ended)
    assert store.names() == ["mini_rte-m2", "toy_b-m2"]
    entry = store.load("toy_b-m2")
    assert (entry.length, entry.d_model, entry.encoder) == (2, 32, "linear")
    assert entry.trunk.sha256 == job.trunk_hash and entry.score is not None


def test_a_source_prompt_that_could_not_be_trained_ends_the_job(job: Job, tmp_path: Path) -> None:
    result = RunResult.stopped(job.runs[0], "loss not finite at step 3")
    with pytest.raises(InputError, match=r"the source prompt of sil-n3-k4-s3 could not be trained: loss not finite"):
        keep(PromptStore(tmp_path / "store"), tmp_path, [result])
    assert not (tmp_path / "store").exists()
