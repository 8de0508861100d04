"""A job is opened and checked before its first step, and its folder made last."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from compt_fast.config.flags import read_flags
from compt_fast.runs.job import (
    Job,
    check_recorded,
    disk_need,
    fingerprint_of,
    open_job,
    prepare_folder,
    record_stored,
    recorded_identity,
)
from compt_fast.training import checkpoint, trackers
from compt_fast.utils.errors import InputError
from tests.helpers import jobs
from tests.helpers.tiny_t5 import make_t5


@pytest.fixture(scope="module")
def job(tiny_t5: Path, toys: list[Path]) -> Job:
    return jobs.opened(jobs.settings(tiny_t5, toys, method="spp,pt-joint"))


def test_the_dtype_is_settled_and_kept(job: Job, tiny_t5: Path, toys: list[Path]) -> None:
    assert job.settings.dtype == ("bf16" if torch.cuda.is_available() else "fp32")
    half = jobs.opened(jobs.settings(tiny_t5, toys, dtype="bf16", device="cpu"))
    assert half.trunk.dtype == torch.bfloat16 and half.trunk_hash != job.trunk_hash
    assert fingerprint_of(half.settings) == half.trunk_hash


def test_config_json_repeats_the_job(job: Job, tmp_path: Path) -> None:
    prepare_folder(tmp_path / "deep" / "run", job, ["compt-fast", "train"])
    path = tmp_path / "deep" / "run" / "config.json"
    content = json.loads(path.read_text())
    assert list(content) == ["format", "command", "flags", "trunk", "runs", "environment"]
    assert content["runs"].keys() == {"spp-n3-k4-s0", "pt-joint-k4-s0"}
    again = open_job(read_flags({}, str(path)))
    assert again.settings == job.settings and again.runs == job.runs
    check_recorded(path.parent, again)

    path.write_text(json.dumps(content | {"trunk": {"sha256": "0" * 64}}))
    with pytest.raises(InputError, match="is not the one that the job began with"):
        check_recorded(path.parent, again)
    content["runs"]["pt-joint-k4-s0"]["lr_private"] = 0.5
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="the job began with the run pt-joint-k4-s0, which is not among the 2 runs"):
        check_recorded(path.parent, again)


def test_a_job_may_grow_in_its_runs_alone(job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    prepare_folder(tmp_path / "run", job, ["compt-fast", "train"])
    record_stored(tmp_path / "run", {"toy_a-m2": "abc"})

    def reopened(**changes: Any) -> Job:
        chosen = jobs.settings(tiny_t5, toys, **({"method": "spp,pt-joint"} | changes))
        return open_job(read_flags(chosen, None), folder=tmp_path / "run", trunk=job.trunk)

    wider = reopened(method="spp,pt-joint,mst", seeds="0,1", runs_at_once=2)
    assert [run.id for run in wider.runs] == [
        *("spp-n3-k4-s0", "spp-n3-k4-s1", "pt-joint-k4-s0", "pt-joint-k4-s1", "mst-n1-k4-s0", "mst-n1-k4-s1")
    ]
    check_recorded(tmp_path / "run", wider)
    prepare_folder(tmp_path / "run", wider, ["again"])
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert len(content["runs"]) == 6 and content["command"] == ["again"]
    assert content["stored"] == {"toy_a-m2": "abc"}
    assert recorded_identity(tmp_path / "run").runs == {run.id: run.config for run in wider.runs}
    with pytest.raises(InputError, match=r"the job began with the run pt-joint-k4-s0, which is not among the 2 runs"):
        check_recorded(tmp_path / "run", reopened(method="spp", seeds="0,1"))
    fitted = reopened(method="spp,pt-joint,mst,pi", seeds="0,1", fit_length="first")
    check_recorded(tmp_path / "run", fitted)
    with pytest.raises(InputError, match="began with --eval-size 6, not with --eval-size 5; only flags of runs"):
        check_recorded(tmp_path / "run", reopened(method="spp,pt-joint,mst", seeds="0,1", eval_size=5))
    with pytest.raises(InputError, match="began without --tasks, not with --tasks toy_b,toy_a; only flags of runs"):
        check_recorded(tmp_path / "run", reopened(method="spp,pt-joint,mst", seeds="0,1", tasks="toy_b,toy_a"))


def test_a_folder_that_recorded_a_value_without_effect_goes_on(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    prepare_folder(tmp_path, job, [])
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    for config in content["runs"].values():
        config["max_train"] = 7  # beside a number of shots
    content["flags"]["max_train"] = [7]
    path.write_text(json.dumps(content))
    for seeds in ("0", "0,1"):
        flags = read_flags({"seeds": seeds}, str(path))
        again = open_job(flags, folder=tmp_path, trunk=job.trunk)
        check_recorded(tmp_path, again)
        assert job.runs[0] in again.runs and len(again.runs) == len(job.runs) * len(seeds.split(","))


def test_stored_prompts_that_change_are_noticed(job: Job, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    prepare_folder(folder, job, [])
    record_stored(folder, {"a": "1"})
    record_stored(folder, {"a": "1", "b": "2"})
    record_stored(folder, {})
    assert json.loads((folder / "config.json").read_text())["stored"] == {"a": "1", "b": "2"}
    with pytest.raises(InputError, match="the stored prompt b has changed since the job began"):
        record_stored(folder, {"b": "3"})


def test_source_tasks_are_named_or_are_those_of_a_suite(tiny_t5: Path, toys: list[Path]) -> None:
    def source_tasks(names: str | None) -> list[str] | None:
        chosen = jobs.settings(tiny_t5, toys, method="sil", source_tasks=names)
        return jobs.opened(chosen).settings.source_tasks

    assert source_tasks(None) is None
    assert source_tasks("toy_a,mini2,mini_mrpc,mini_qnli") == [
        *("toy_a", "mini_imdb", "mini_mrpc", "mini_multinli", "mini_paws", "mini_scitail", "mini_yelp_polarity"),
        "mini_qnli",
    ]
    with pytest.raises(InputError, match=r"unknown task 'toy_d'\. Did you mean"):
        source_tasks("toy_d")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not well-formed json"),
        ("[]", "not the config.json of a run folder: a JSON list"),
        ("{}", "not the config.json of a run folder: trunk must be an object"),
        ('{"trunk": {}}', "not the config.json of a run folder: flags must be an object"),
        ('{"trunk": {"sha256": "a"}, "flags": {}, "runs": {"r": {"m": 1}}}', "runs: r: 'm'"),
    ],
)
def test_a_damaged_config_json(text: str, message: str, job: Job, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=rf"config\.json: {message}"):
        check_recorded(tmp_path, job)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_length": 500}, "a target prompt of 500 tokens and --max-source-length 32"),
        ({"method": "scp", "prompt_length": 250}, "a target prompt of 500 tokens"),
        ({"max_source_length": 512}, "--max-source-length 512 exceed the trunk's input of 512"),
        ({"method": "pt-joint", "gates": "tied"}, "--gates has no meaning"),
        ({"suite": "gleu"}, r"unknown suite 'gleu'\. Did you mean 'glue'"),
        ({"include": "ret"}, r"unknown task 'ret'\. Did you mean"),
        ({"task_file": None, "tasks": "mini_ret"}, r"unknown task 'mini_ret'\. Did you mean"),
        ({"model": "/nowhere/t5"}, "/nowhere/t5"),
    ],
)
def test_wrong_input_is_found_on_opening(
    changes: dict[str, Any], message: str, tiny_t5: Path, toys: list[Path]
) -> None:
    with pytest.raises(InputError, match=message):
        jobs.opened(jobs.settings(tiny_t5, toys, **changes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(tiny_t5: Path, toys: list[Path]) -> None:
    with pytest.raises(InputError, match="--device cuda: this torch sees no GPU"):
        jobs.opened(jobs.settings(tiny_t5, toys, device="cuda"))


def test_a_tracker_is_missed_at_once(tiny_t5: Path, toys: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    settings = read_flags(jobs.settings(tiny_t5, toys, track="trackio,wandb"), None)
    with pytest.raises(InputError, match=r"--track trackio needs its extra: pip install 'compt-fast\[trackio\]'"):
        open_job(settings)


def test_fingerprints_tell_trunks_apart(job: Job, tmp_path: Path) -> None:
    other = make_t5(tmp_path / "other", seed=1)
    assert fingerprint_of(replace(job.settings, model=str(other))) != job.trunk_hash


def test_a_folder_that_cannot_be_made(job: Job, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--out .*: cannot be written \(Not a directory\)"):
        prepare_folder(tmp_path / "file" / "run", job, [])


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_disk_without_room(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need = disk_need(job)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2 * need, need, need - 1))
    with pytest.raises(InputError, match="the job may need .* MiB and the disk has"):
        prepare_folder(tmp_path / "run", job, [])
    assert list((tmp_path / "run").iterdir()) == [], "so that the same --out can be tried again"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2 * need, need, need))
    prepare_folder(tmp_path / "run", job, [])


def test_the_need_of_disk_is_what_is_written(job: Job, tmp_path: Path) -> None:
    """Three checkpoints with every run in training, and all prompts, but for the files' headers."""
    chosen: dict[str, Any] = {"checkpoint_every": 4, "max_source_length": 32}
    largest = 0
    save = checkpoint.save

    def saved(folder: Path, *rest: Any) -> None:
        nonlocal largest
        save(folder, *rest)
        largest = max(largest, *(path.stat().st_size for path in folder.iterdir()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", saved)
        jobs.train(job, job.runs, tmp_path / "run", **chosen)
    prompts = sum(path.stat().st_size for path in tmp_path.rglob("prompts.safetensors"))
    headers = 40_000
    assert 3 * largest + prompts - headers < disk_need(job) < 3 * largest + 4 * prompts
