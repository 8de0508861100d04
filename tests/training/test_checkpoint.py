"""Checkpoints: whole, the latest, and refused when damaged."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from compt_fast.config.flags import read_flags
from compt_fast.config.job import JobSettings
from compt_fast.tasks.examples import TrainingRow
from compt_fast.training import checkpoint
from compt_fast.training.cohort import Cohort, Member
from compt_fast.training.identity import Identity
from compt_fast.training.plan import plan_runs
from compt_fast.utils.errors import InputError


@pytest.fixture
def cohorts() -> list[Cohort]:
    flags = read_flags({"method": "spp,pt-joint", "seeds": "0,1"}, None)
    made: dict[str, Cohort] = {}
    for run in plan_runs(flags, tasks=["a", "b"], d_model=8):
        cohort = made.setdefault(run.config.method, Cohort(run.shape, torch.randn(9, 8)))
        cohort.admit(Member(run, [TrainingRow([1], [1], 0)], step=3))
    return list(made.values())


def test_what_is_saved_comes_back(cohorts: list[Cohort], tmp_path: Path) -> None:
    cohorts[0].members[1].best = cohorts[0].prompts(1)
    cohorts[0].members[1].development = {"average": 50.0, "step": 3, "tasks": {}}
    cohorts[1].members[0].stopped = "loss not finite at step 3"
    folder = tmp_path / "checkpoints"
    checkpoint.save(folder, {"step": 7, "results": {}}, cohorts)
    saved = checkpoint.load_latest(folder)
    assert saved is not None and saved.state["step"] == 7 and saved.state["results"] == {}
    runs = [[m["run"] for m in members] for members in saved.state["members"]]
    assert runs == [["spp-n3-k16-s0", "spp-n3-k16-s1"], ["pt-joint-k16-s0", "pt-joint-k16-s1"]]
    assert saved.state["members"][0][1]["development"]["average"] == 50.0
    assert saved.state["members"][0][0]["development"] is None
    assert saved.state["members"][1][0]["stopped"] == "loss not finite at step 3"
    for cohort in cohorts:
        for i, member in enumerate(cohort.members):
            expected = cohort.run_tensors(i)
            got = saved.tensors[member.run.id]
            assert got.keys() == expected.keys()
            assert all(torch.equal(got[name], expected[name]) for name in expected)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_latest_and_the_one_before_stay(cohorts: list[Cohort], tmp_path: Path) -> None:
    for step in (9, 10, 10, 100):
        checkpoint.save(tmp_path, {"step": step}, cohorts)
    assert names(tmp_path) == ["step-00000010.safetensors", "step-00000100.safetensors"]
    (tmp_path / "notes.txt").touch()
    checkpoint.save(tmp_path, {"step": 50}, cohorts)  # of a job that went back to 10
    assert names(tmp_path) == ["notes.txt", "step-00000010.safetensors", "step-00000050.safetensors"]
    checkpoint.save(tmp_path, {"step": 60}, [])
    assert names(tmp_path) == ["notes.txt", "step-00000060.safetensors"]


def test_a_save_that_fails_leaves_the_one_before(
    cohorts: list[Cohort], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path / "c", {"step": 1}, cohorts)

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    for step in (1, 2):
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save(tmp_path / "c", {"step": step}, cohorts)
    saved = checkpoint.load_latest(tmp_path / "c")
    assert saved is not None and saved.state["step"] == 1
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_after_the_last_run_no_tensor_is_left(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", {"step": 5}, [])
    saved = checkpoint.load_latest(tmp_path / "c")
    assert saved is not None and saved.state["members"] == [] and saved.tensors == {}


def test_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.load_latest(tmp_path / "checkpoints") is None
    (tmp_path / ".step-00000001.safetensors.1a2b").write_bytes(b"half")
    assert checkpoint.load_latest(tmp_path) is None


def test_damage_is_named(cohorts: list[Cohort], tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"step": 1}, cohorts)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[:-8]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"step-00000001\.safetensors: a damaged checkpoint: .*; put back a copy"):
            checkpoint.load_latest(tmp_path)
    for metadata in (None, {"state": "{"}, {"other": "{}"}):
        save_file({"run/param.x": torch.zeros(1)}, path, metadata=metadata)
        with pytest.raises(InputError, match="a damaged checkpoint"):
            checkpoint.load_latest(tmp_path)
    save_file({}, path, metadata={"state": '{"format": 99}'})
    with pytest.raises(InputError, match="a checkpoint of format 99, not 2"):
        checkpoint.load_latest(tmp_path)


def test_any_flipped_bit_is_noticed_and_the_one_before_is_taken(cohorts: list[Cohort], tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, {"step": step}, cohorts)
    path = tmp_path / "step-00000002.safetensors"
    whole, chance = path.read_bytes(), random.Random(0)
    for content in [*(flipped(whole, chance) for _ in range(60)), whole[: len(whole) // 2], b""]:
        path.write_bytes(content)
        saved = checkpoint.load_latest(tmp_path)
        assert saved is not None and saved.state["step"] == 1
        assert saved.damaged.startswith(f"{path}: a damaged checkpoint: ")
    path.write_bytes(whole)
    saved = checkpoint.load_latest(tmp_path)
    assert saved is not None and (saved.state["step"], saved.damaged) == (2, "")


def flipped(content: bytes, chance: random.Random) -> bytes:
    """With one bit turned: in the tensors, or in what stands before them."""
    at = chance.randrange(len(content) if chance.random() < 0.5 else 3000)
    return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]


def test_what_reads_otherwise_than_it_was_written_replaces_nothing(
    cohorts: list[Cohort], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, {"step": 1}, cohorts)

    def rotten(tensors: object, path: Path, metadata: object) -> None:
        save_file(tensors, path, metadata=metadata)
        path.write_bytes(flipped(path.read_bytes(), random.Random(1)))

    monkeypatch.setattr(checkpoint, "save_file", rotten)
    with pytest.raises(OSError, match="was written, and reads otherwise"):
        checkpoint.save(tmp_path, {"step": 2}, cohorts)
    assert names(tmp_path) == ["step-00000001.safetensors"]


def test_another_jobs_checkpoint_is_refused(cohorts: list[Cohort], tmp_path: Path) -> None:
    configs = {member.run.id: member.run.config for cohort in cohorts for member in cohort.members}
    job = Identity("ab", JobSettings(prefix=False), configs)
    checkpoint.save(tmp_path, {"step": 1, "results": {}, "job": job.hash(configs)}, cohorts)
    wider = dataclasses.replace(job, runs={**configs, "new": configs["pt-joint-k16-s0"]})
    assert checkpoint.load_latest(tmp_path, job) and checkpoint.load_latest(tmp_path, wider)
    faster = {name: dataclasses.replace(config, lr_private=0.5) for name, config in configs.items()}
    for other in (
        dataclasses.replace(job, trunk_hash="cd"),
        dataclasses.replace(job, settings=JobSettings()),
        dataclasses.replace(job, runs=faster),
        dataclasses.replace(job, runs={}),
    ):
        with pytest.raises(InputError, match=r"step-00000001\.safetensors: not a checkpoint of this job"):
            checkpoint.load_latest(tmp_path, other)
