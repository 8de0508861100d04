"""Whose a run folder is."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from compt_fast.config.flags import read_flags
from compt_fast.runs import folder as module
from compt_fast.runs.folder import check_begun, claimed, own_folder
from compt_fast.utils.errors import InputError


def folder_of(out: Path | None, **changes: str) -> Path:
    with own_folder(read_flags(changes | ({"out": str(out)} if out else {}), None)) as folder:
        return folder


def test_where_a_job_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert folder_of(tmp_path / "new") == tmp_path / "new"
    assert folder_of(tmp_path) == tmp_path, "an empty folder will do"
    assert folder_of(None, suite="mini2").parts[0] == "runs"
    assert folder_of(None, suite="mini2").name.startswith("mini2-")
    assert folder_of(None, tasks="rte").name.startswith("tasks-")
    assert list(tmp_path.iterdir()) == [], "what stays empty goes again"
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file; name a folder"):
        folder_of(tmp_path / "file")
    with pytest.raises(InputError, match="holds other files; name a new or an empty folder"):
        folder_of(tmp_path)
    (tmp_path / "config.json").touch()
    assert folder_of(tmp_path) == tmp_path, "a job to extend"


def test_jobs_of_one_second_have_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module.time, "strftime", lambda form: "20260101-120000")
    flags = read_flags({}, None)
    with ExitStack() as jobs:
        folders = [jobs.enter_context(own_folder(flags)) for _ in range(3)]
        (folders[1] / "config.json").touch()
    names = ["mini-20260101-120000", "mini-20260101-120000-2", "mini-20260101-120000-3"]
    assert [folder.name for folder in folders] == names
    assert [path.name for path in (tmp_path / "runs").iterdir()] == names[1:2]


@pytest.mark.parametrize("stage", ["sources-m2", "shared-m2"])
def test_the_stages_before_a_job_are_held_and_cleaned_with_it(stage: str, tmp_path: Path) -> None:
    left = tmp_path / stage / "prompts" / ".mpt-source-n1-full-s0.0a1b2c3d"
    left.mkdir(parents=True)
    with claimed(tmp_path):
        assert not left.exists()
        with pytest.raises(InputError, match="is at work on it"), claimed(tmp_path / stage):
            raise AssertionError


def test_a_folder_is_held_by_one_job(tmp_path: Path) -> None:
    at_work = r"process \d+ on .* is at work on it; wait until it ends"
    with claimed(tmp_path), pytest.raises(InputError, match=at_work), claimed(tmp_path):
        raise AssertionError
    with claimed(tmp_path):
        pass


def test_what_died_before_it_had_begun_is_in_nobodys_way(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=r"no run folder \(it has no config\.json\)$"):
            check_begun(folder)
    (tmp_path / "lock").write_text("process 1 on a\n")
    (tmp_path / ".config.json.12345678").write_text('{"half')
    with pytest.raises(InputError, match="a job ended here before it had begun: give its flags again"):
        check_begun(tmp_path)
    with own_folder(read_flags({"out": str(tmp_path)}, None)) as folder:
        assert [path.name for path in folder.iterdir()] == ["lock"]
    (tmp_path / ".config.json.12345678").mkdir()
    with pytest.raises(InputError, match="holds other files"):
        folder_of(tmp_path)


def test_what_died_half_written_is_cleaned_up_and_what_is_others_stays(tmp_path: Path) -> None:
    others = [".other.12345678", ".results.json.123", "notes", ".masked.json.12345678"]
    for name in (".results.json.0a1b2c3d", "config.json", *others):
        (tmp_path / name).touch()
    prompts = tmp_path / "prompts"
    for name in (".pt-k4-s0.0a1b2c3d", ".spp.0a1b2c3d.old", "pt-k4-s0", ".keep"):
        (prompts / name).mkdir(parents=True)
        (prompts / name / "prompts.safetensors").touch()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".step-00000002.safetensors.0a1b2c3d").touch()
    with claimed(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "prompts", "checkpoints", *others}
    assert {path.name for path in prompts.iterdir()} == {"pt-k4-s0", "spp", ".keep"}, "what was put aside is back"
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        *("metrics.jsonl", "prompts", "checkpoints", "store", "sources-m2", "shared-m2"),
        *("wandb", "tensorboard/run", "wandb/a/b"),
    ],
)
def test_links_that_lead_out_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "step-00000001.safetensors").touch()
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "victim")
    alone = "is a link: a job writes into its run folder alone"
    with pytest.raises(InputError, match=alone), claimed(tmp_path / "run"):
        raise AssertionError
    assert len(list((tmp_path / "victim").iterdir())) == 1


def test_a_name_that_its_file_system_cannot_take(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be written \(File name too long\)"), claimed(tmp_path / ("a" * 300)):
        raise AssertionError
