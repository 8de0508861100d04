"""Run folders as a report reads them: whole, unfinished, doubled, damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compt_fast.analysis.about_prompts import anatomy_of
from compt_fast.analysis.runs import metric_of, portraits, read_runs, suite_name
from compt_fast.utils.errors import InputError
from compt_fast.utils.words import short
from tests.helpers.made_runs import made_run

GIVEN = {"method": "spp,pt-joint", "sources": "1,2", "shots": "8,16", "seeds": "0,1", "tasks": "mini_rte,mini_stsb"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_run(tmp_path_factory.mktemp("runs") / "run", masked=False, **GIVEN)[0]


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the run folder to spoil."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def change_results(folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    path = folder / "results.json"
    content = json.loads(path.read_text())
    change(content["runs"])
    path.write_text(json.dumps(content))


def test_a_finished_folder_is_all_there(made: Path) -> None:
    material = read_runs([made])
    assert len(material.entries) == 12 and material.missing == []
    first = material.entries[0]
    assert first.tasks == ("mini_rte", "mini_stsb") and short(first.tasks) == ["rte", "stsb"]
    assert first.average == (first.score("mini_rte") + first.score("mini_stsb")) / 2
    assert metric_of(first) == "accuracy; spearman for stsb"
    assert suite_name(first.job) == "mini_rte, mini_stsb"


def test_a_folder_of_run_folders_is_all_of_them(made: Path) -> None:
    assert len(read_runs([made.parent]).entries) == 12
    assert read_runs([made, made.parent]).folders == [made.resolve()]


def test_sources_grow_where_there_is_one_a_task(tmp_path: Path) -> None:
    given = {"method": "mpt-m,sil,sln,spp", "tasks": "mini_rte,mini_stsb"}
    entries = read_runs([made_run(tmp_path / "run", masked=False, **given)[0]]).entries
    grow = {entry.config.method: entry.sources_grow for entry in entries}
    assert grow == {"mpt-m": False, "sil": True, "sln": True, "spp": False}


def test_what_has_not_finished_is_named(folder: Path) -> None:
    def spoil(runs: list[dict[str, Any]]) -> None:
        runs[0] |= {"status": "unfinished", "tasks": {}, "average": None}
        runs[1] |= {"status": "stopped", "tasks": {}, "average": None, "reason": "loss was not finite at step 7"}
        runs[3] |= {"status": "stopped", "tasks": {}, "average": None, "reason": "on request", "step": 4}
        del runs[2]

    change_results(folder, spoil)
    material = read_runs([folder])
    assert len(material.entries) == 8
    stopped, early, unfinished = material.missing
    assert "1 run stopped early, of which no table counts any" in early and "--runs ID trains one to its end" in early
    assert "spp-n2-k8-s0 was stopped: loss was not finite at step 7" in stopped
    assert "2 of 12 runs have not finished: spp-n1-k8-s0, spp-n" in unfinished and "--resume" in unfinished


def test_a_job_before_its_first_result(folder: Path) -> None:
    (folder / "results.json").unlink()
    material = read_runs([folder])
    assert material.entries == [] and "of its 12 runs none has been scored" in material.missing[0]


def test_a_run_in_two_folders_counts_once(made: Path, folder: Path) -> None:
    material = read_runs([made, folder])
    assert len(material.entries) == 12
    assert len(material.missing) == 12 and "spp-n1-k8-s0 is left out" in material.missing[0]


def change_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_runs_of_another_engine_or_another_trunk_of_that_name_are_others(made: Path, tmp_path: Path) -> None:
    for name in ("engine", "trunk"):
        shutil.copytree(made, tmp_path / name)
    change_config(tmp_path / "engine", lambda content: content["flags"].update(engine="reference"))
    change_config(tmp_path / "trunk", lambda content: content["trunk"].update(sha256="1" * 64))
    material = read_runs([made, tmp_path / "engine", tmp_path / "trunk"])
    assert len(material.entries) == 36 and material.missing == []


def test_folders_of_one_name_are_told_apart(made: Path, folder: Path) -> None:
    material = read_runs([made, folder])
    assert list(material.names.values()) == [f"{path.parent.name}/run" for path in (made, folder)]
    assert material.missing[0].startswith(f"{folder.parent.name}/run: spp-n1-k8-s0 is left out; {made.parent.name}/run")


def test_runs_trained_apart_are_one_entry(tmp_path: Path) -> None:
    folder, _ = made_run(tmp_path / "run", masked=False, method="pt-joint", tasks="mini_rte,mini_cola", seeds="0,1")
    config = json.loads((folder / "config.json").read_text())
    runs = json.loads((folder / "results.json").read_text())
    apart = []
    for run in runs["runs"]:
        for task in list(run["tasks"]):
            name = f"{run['id']}-{task}"
            config["runs"][name] = config["runs"][run["id"]] | {"task": task}
            score = run["tasks"][task]["scores"]["accuracy"]
            apart.append(run | {"id": name, "tasks": {task: run["tasks"][task]}, "average": score})
        del config["runs"][run["id"]]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "results.json").write_text(json.dumps(runs | {"runs": apart}))
    entries = read_runs([folder]).entries
    assert [entry.tasks for entry in entries] == [("mini_rte", "mini_cola")] * 2
    assert [entry.average for entry in entries] == pytest.approx([run["average"] for run in runs["runs"]])
    assert [len(entry.parts) for entry in entries] == [2, 2]


def test_tasks_apart_and_together_are_two_settings_and_both_have_prompts(tmp_path: Path) -> None:
    """Under one name, as run folders of before have it."""
    folder, _ = made_run(tmp_path / "run", masked=False, method="pt,pt-joint", tasks="mini_rte,mini_cola")
    config = json.loads((folder / "config.json").read_text())
    config["runs"]["pt-joint-k16-s0"]["method"] = "pt"
    (folder / "config.json").write_text(json.dumps(config))
    material = read_runs([folder])
    apart, joint = material.entries
    assert {name for name, value in apart.settings.items() if value != joint.settings[name]} == {"apart"}
    assert (len(apart.stored), len(joint.stored)) == (2, 1)
    found = anatomy_of(material, apart)
    assert found is not None and found.tokens.shape == (2, 2) and found.tasks == ["rte", "cola"]


def test_portraits_are_the_first_seed_at_the_most_shots(made: Path) -> None:
    entries = read_runs([made]).entries
    assert [entry.id for entry in portraits(entries, None)] == ["spp-n1-k16-s0", "spp-n2-k16-s0", "pt-joint-k16-s0"]
    assert [entry.id for entry in portraits(entries, ["pt-joint-k8-s1"])] == ["pt-joint-k8-s1"]
    with pytest.raises(InputError, match="unknown run 'pt-joint-k9-s1'. Did you mean 'pt-joint-k"):
        portraits(entries, ["pt-joint-k9-s1"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.json", "{", "config.json: not well-formed json"),
        ("results.json", "{", "results.json: not well-formed json"),
    ],
)
def test_damaged_files_are_named(name: str, text: str, message: str, folder: Path) -> None:
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_runs([folder])


def test_a_folder_without_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: no such folder"):
        read_runs([tmp_path / "none"])
    with pytest.raises(InputError, match="nor a folder of run folders"):
        read_runs([tmp_path])
