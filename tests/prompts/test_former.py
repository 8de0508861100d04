"""Folders of format 1: a run folder and a store in `tests/data`, which the last code that wrote it made of the line

    python -m compt_fast.train --method=scp,spp,sil --gates=learned,input --tasks=mini_rte,mini_stsb --steps=6
        --shots=8 --eval-size=32 --prompt-length=2 --sources=2 --encoder=linear --source-steps=4 --source-examples=8
        --store=old_store --device=cpu --scoring=rank --lr-source=0.3 --lr-private=0.3 --out=old_run

without checkpoints, the folder of stage one, and what it printed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compt_fast import evaluate, store, train
from compt_fast.evaluation.evaluator import predict, scored
from compt_fast.evaluation.passes import Asked
from compt_fast.prompts.artifact import TextFormat, load_prompts
from compt_fast.prompts.store import PromptStore
from compt_fast.runs.loaded import load_job
from compt_fast.tasks.table import TASKS
from compt_fast.utils.errors import InputError

DATA = Path(__file__).parents[1] / "data"
RUN, STORE = DATA / "old_run", DATA / "old_store"
TASK_NAMES = ("mini_rte", "mini_stsb")
ENTRIES = [f"{task}-m2" for task in TASK_NAMES]
SCP, SIL = "scp-n2-k8-s0-gateslearned", "sil-n2-k8-s0-gatesfixed"
Said = pytest.CaptureFixture[str]


def test_old_runs_score_the_same_to_the_last_bit(capsys: Said) -> None:
    assert evaluate.main([str(RUN)]) == 0
    said = capsys.readouterr().out
    assert "the same numbers as in results.json" in said and "gatesinput" in said and "scp-n2" in said


def test_old_prompts_of_a_store_score_the_same_to_the_last_bit() -> None:
    job = load_job(RUN, {}).job
    for name, task in zip(ENTRIES, TASK_NAMES, strict=True):
        prompts, about = load_prompts(STORE / name, "prompt")
        rows = [rows for rows in job.data.evaluation() if rows.task.name == task]
        asked = Asked(job.trunk, prompts, rows, "natural")
        ((_, predicted),) = predict(job.data, [asked], scoring="rank", batch_size=128)
        (entry,) = scored(rows, predicted, "natural").values()
        assert about.score == {"metric": entry["primary"], "value": entry["scores"][entry["primary"]]}


def test_what_old_manifests_say() -> None:
    prompts, about = load_prompts(RUN / "prompts" / SIL)
    assert (about.name, about.tasks, about.source_tasks) == (SIL, TASK_NAMES, TASK_NAMES)
    assert about.text == TextFormat(True, "prepend", None, "natural") and about.definitions == {}
    assert (about.trunk.name, about.trunk.dtype, len(about.trunk.sha256 or "")) == ("mini", "fp32", 64)
    assert about.training["config"]["method"] == "sil" and about.created
    assert prompts.shape.composition == "inside" and prompts.tensors["targets"].shape == (2, 2, 192)
    for entry in (PromptStore(STORE).load(name) for name in ENTRIES):
        assert entry.trunk == about.trunk and entry.encoder == "linear" and entry.score
        assert entry.text == about.text and list(entry.training) == ["run", "config"]


def test_a_run_becomes_entries_of_the_present_format(tmp_path: Path, capsys: Said) -> None:
    assert store.main(["add", f"--store={tmp_path}", str(RUN / "prompts" / SCP)]) == 0
    assert store.main(["check", f"--store={tmp_path}", "--model=mini"]) == 0
    assert capsys.readouterr().out.endswith("2 prompts, 0 with something wrong\n")
    recorded = {run["id"]: run["tasks"] for run in json.loads((RUN / "results.json").read_text())["runs"]}[SCP]
    for task in TASK_NAMES:
        manifest = json.loads((tmp_path / f"{task}-m4" / "manifest.json").read_text())
        metric = TASKS[task].primary
        assert manifest["format"] == 2 and manifest["definitions"] == {}
        assert manifest["score"] == {"metric": metric, "value": recorded[task]["scores"][metric]}


def test_runs_start_from_an_old_store(tmp_path: Path) -> None:
    shutil.copytree(STORE, tmp_path / "store")
    small = ["--steps=1", "--shots=2", "--eval-size=2", "--scoring=rank", "--prompt-length=2", "--device=cpu"]
    line = ["--method=sil", f"--tasks={','.join(TASK_NAMES)}", f"--store={tmp_path / 'store'}", *small]
    assert train.main([*line, f"--out={tmp_path / 'run'}"]) == 0
    assert not list((tmp_path / "run").glob("sources-*")), "nothing was lacking"
    used = json.loads((tmp_path / "run" / "config.json").read_text())["stored"]
    assert used == {name: PromptStore(STORE).load(name).sha256 for name in ENTRIES}


def edited(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.update(trunk=3),
            r"manifest\.json: not a manifest of .*: trunk must be a text or null",
        ),
        (lambda m: m.pop("shape"), "not a manifest of stored prompts: shape must be an object, not None"),
        (lambda m: m["config"].update(label_mode=3), "text: label_mode must be a text or null, not 3"),
        (lambda m: m.update(tasks=["a"]), "tasks are 1, but its shape has 2"),
        (lambda m: m.update(d_model=7), "d_model must be that of its shape, 192"),
    ],
)
def test_what_is_wrong_with_an_old_run_is_named(change: Any, message: str, tmp_path: Path) -> None:
    folder = edited(shutil.copytree(RUN / "prompts" / SCP, tmp_path / "run"), change)
    with pytest.raises(InputError, match=message):
        load_prompts(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("training"), r"manifest\.json: training is missing"),
        (lambda m: m.update(length=100), r"holds .*\[2, 192\]\}, but its manifest says .*\[100, 192\]\}"),
        (lambda m: m.update(sha256="0" * 64), "its values are not those its manifest was written for"),
        (lambda m: m["trunk"].update(hash="a"), "trunk: 'hash'. Known: name, sha256, dtype"),
        (lambda m: m.update(encoder="mpl"), "shape: unknown prompt encoder 'mpl'"),
        (lambda m: m.update(name="other"), "its name is 'other', but it stands in a folder called 'mini_rte-m2'"),
    ],
)
def test_what_is_wrong_with_an_old_entry_is_named(change: Any, message: str, tmp_path: Path) -> None:
    shutil.copytree(STORE, tmp_path / "store")
    edited(tmp_path / "store" / ENTRIES[0], change)
    with pytest.raises(InputError, match=message):
        PromptStore(tmp_path / "store").load(ENTRIES[0])


def test_early_manifests_of_runs_say_less(tmp_path: Path) -> None:
    kept = ("format", "shape", "tensors")

    def early(manifest: dict[str, Any]) -> None:
        for key in [key for key in manifest if key not in kept]:
            del manifest[key]

    folder = edited(shutil.copytree(RUN / "prompts" / SCP, tmp_path / "run"), early)
    prompts, about = load_prompts(folder)
    assert about.tasks == () and about.trunk.sha256 is None and prompts.shape.composition == "scp"
