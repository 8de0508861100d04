"""Checkpoints: whole, the latest, and refused when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from compt_fast.errors import InputError
from compt_fast.flags import read_flags
from compt_fast.fleet import checkpoint
from compt_fast.fleet.cohort import Cohort, Member
from compt_fast.fleet.data import TrainingRow
from compt_fast.fleet.plan import plan_runs


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


def test_only_the_latest_stays(cohorts: list[Cohort], tmp_path: Path) -> None:
    for step in (9, 10, 10, 100):
        checkpoint.save(tmp_path / "c", {"step": step}, cohorts)
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step-00000100.safetensors"]


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
        with pytest.raises(InputError, match=r"step-00000001\.safetensors: a damaged checkpoint"):
            checkpoint.load_latest(tmp_path)
    for metadata in (None, {"state": "{"}, {"other": "{}"}):
        save_file({"run/param.x": torch.zeros(1)}, path, metadata=metadata)
        with pytest.raises(InputError, match="a damaged checkpoint"):
            checkpoint.load_latest(tmp_path)
    save_file({}, path, metadata={"state": '{"format": 99}'})
    with pytest.raises(InputError, match="a checkpoint of format 99, not 1"):
        checkpoint.load_latest(tmp_path)
