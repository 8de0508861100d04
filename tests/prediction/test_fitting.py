"""Training from Python, on rows in memory or where the flags say, as the command does."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from datasets import Dataset
from rich.console import Console

import compt_fast
from compt_fast import Fitted, evaluate, fit, load, report, train
from compt_fast.training import monitor
from compt_fast.training.loop import Trainer
from compt_fast.training.monitor import Monitor
from compt_fast.utils.errors import InputError
from tests.helpers import jobs
from tests.helpers.jobs import error_of

TOY = {"name": "mine", "fields": ["sentence"], "labels": ["bad", "good"]}
ROWS = [{"sentence": " ".join(jobs.WORDS[n % 5 : n % 5 + 1 + n % 4]), "label": n % 2} for n in range(40)]
DATA = {"mine": {"train": ROWS[:24], "validation": ROWS[24:]}}


@pytest.fixture(autouse=True)
def nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Without `progress`."""
    yield
    assert capsys.readouterr().out == ""


@pytest.fixture
def flags(tiny_t5: Path, tmp_path: Path) -> dict[str, Any]:
    """A small job's flags, as Python values."""
    small = {"shots": 4, "steps": 3, "batch_size": 4, "prompt_length": 2, "max_source_length": 32, "eval_size": 8}
    return {"model": tiny_t5, "out": tmp_path / "run", "method": "pt-joint", "progress": False, **small}


def test_a_search(flags: dict[str, Any], tmp_path: Path) -> None:
    """Over rows in memory, with the flags of the command; the best trial's fresh seeds are runs like any other."""
    (tmp_path / "space.toml").write_text("lr_private = [0.1, 0.2]")
    space = tmp_path / "space.toml"
    fitted = fit(DATA, task_file=TOY, search=space, sampler="grid", confirm=1, **flags)
    assert [result.seed for result in fitted.results] == [0, 0, 1] and len(fitted.scores) == 3
    assert fit(DATA, task_file=TOY, resume=fitted.folder, confirm=2, progress=False).runs[:3] == fitted.runs


def test_rows_in_memory(flags: dict[str, Any], tmp_path: Path) -> None:
    fitted = fit(DATA, task_file=TOY, **flags | {"method": ["pt-joint", "spp"]})
    assert fitted.folder == tmp_path / "run" and fitted.runs == ["pt-joint-k4-s0", "spp-n3-k4-s0"]
    scores = fitted.scores
    assert list(scores.columns) == ["run", "method", "shots", "seed", "task", "metric", "score", "primary"]
    assert len(scores) == 2 and set(scores.task) == {"mine"} and scores.score.between(0, 100).all()
    results = {run["id"]: run["tasks"] for run in jobs.results(fitted.folder)["runs"]}
    assert scores.score.tolist() == [results[run]["mine"]["scores"]["accuracy"] for run in fitted.runs]
    answers = fitted.predictor("spp-n3-k4-s0").predict(ROWS)
    assert answers == load(fitted.folder, run="spp-n3-k4-s0").predict(ROWS)
    with pytest.raises(InputError, match="say which run"):
        fitted.predictor()


@pytest.mark.parametrize("form", ["polars", "pandas", "datasets", "iterator"])
def test_forms_of_rows(form: str, flags: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    """The job is that of the same rows in files, to the last bit."""
    make: Any = {"polars": pl.DataFrame, "pandas": pd.DataFrame, "datasets": Dataset.from_list, "iterator": iter}[form]
    splits = {"train": make(ROWS[:24]), "test": make(ROWS[24:])}
    fit({"mine": splits}, task_file=TOY, **flags)
    (tmp_path / "mine").mkdir()
    for name, rows in (("train", ROWS[:24]), ("test", ROWS[24:])):
        (tmp_path / f"mine/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\nfields = ["sentence"]\nlabels = ["bad", "good"]\ndata = "mine"\n'
    )
    fit(tmp_path, task_file=tmp_path / "mine.toml", **flags | {"out": tmp_path / "files"})
    jobs.equal(tmp_path / "run", tmp_path / "files")
    line = ["--method=pt-joint", "--shots=4", "--steps=3", "--batch-size=4", "--prompt-length=2", "--eval-size=8"]
    line += [f"--model={flags['model']}", f"--task-file={tmp_path / 'mine.toml'}", "--max-source-length=32"]
    assert train.main([*line, f"--out={tmp_path / 'line'}"]) == 0
    capsys.readouterr()
    jobs.equal(tmp_path / "files", tmp_path / "line")


def test_built_in_tasks_and_task_files(flags: dict[str, Any], tmp_path: Path, toys: list[Path]) -> None:
    """A task of the table with rows in memory, beside a task file's own and one whose file has its rows in memory."""
    (tmp_path / "mine.yaml").write_text("name: mine\nfields: [sentence]\nlabels: [bad, good]\n")
    rows = [
        {"sentence": f"{row['sentence']} {n}", "label": ("negative", "positive")[n % 2]} for n, row in enumerate(ROWS)
    ]
    data = DATA | {"sst2": {"train": rows[:24], "validation": rows[24:]}}
    fitted = fit(data, task_file=[tmp_path / "mine.yaml", str(toys[0])], **flags)
    assert set(fitted.scores.task) == {"mine", "sst2", "toy_a"}
    assert set(fitted.predictor().tasks) == {"mine", "sst2", "toy_a"}


def test_sources_are_trained_on_rows_in_memory(flags: dict[str, Any]) -> None:
    fitted = fit(DATA, task_file=TOY, **flags | {"method": "sil", "source_steps": 2})
    assert len(fitted.runs) == 1 and list(fitted.folder.glob("sources-m2/prompts/*mine"))


def interrupted_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C when the job has taken so many steps."""
    take = Trainer.train_step

    def stepped(self: Trainer, monitor: Monitor) -> Any:
        if self.step == step:
            os.kill(os.getpid(), signal.SIGINT)
        return take(self, monitor)

    monkeypatch.setattr(Trainer, "train_step", stepped)


def test_resume(flags: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    fit(DATA, task_file=TOY, **flags | {"out": tmp_path / "whole"})
    with monkeypatch.context() as patched:
        interrupted_at(patched, 1)
        with pytest.raises(KeyboardInterrupt, match=r"go on with compt_fast.fit\(\.\.\., resume="):
            fit(DATA, task_file=TOY, **flags)
    assert f"go on with: compt_fast.fit(data, resume={str(tmp_path / 'run')!r})" in capsys.readouterr().err
    said = error_of(capsys, train.main, ["--resume", str(tmp_path / "run")])
    assert "the rows of mine were handed over to compt_fast.fit and stand in no file" in said
    other = {"mine": {"train": ROWS[1:25], "validation": ROWS[24:]}}
    with pytest.raises(InputError, match="its job began with other rows of mine: hand over the same"):
        fit(other, task_file=TOY, resume=tmp_path / "run", progress=False)
    with pytest.raises(InputError, match="leave out out"):
        fit(DATA, task_file=TOY, resume=tmp_path / "run", out="x")
    with pytest.raises(InputError, match="no run folder"):
        fit(DATA, task_file=TOY, resume=tmp_path / "nowhere")
    fitted = fit(DATA, task_file=TOY, resume=tmp_path / "run", progress=False)
    jobs.equal(tmp_path / "run", tmp_path / "whole")
    more = fit(DATA, task_file=TOY, resume=fitted.folder, seeds=[0, 1], progress=False)
    assert more.runs == ["pt-joint-k4-s0", "pt-joint-k4-s1"]


def test_other_commands_on_its_folder(flags: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    """Its rows are gone, but not its scores and prompts."""
    fit(DATA, task_file=TOY, **flags)
    assert "stand in no file" in error_of(capsys, evaluate.main, [str(tmp_path / "run")])
    assert report.main([str(tmp_path / "run"), "-o", str(tmp_path / "report")]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shoots": 3}, "unknown flag in fit: 'shoots'. Did you mean 'shots'?"),
        ({"shots": "x"}, "fit: shots"),
        ({"shots": [4, 4]}, "fit: shots names 4 twice"),
        ({"method": "pt-jiont"}, "Did you mean 'pt-joint'?"),
        ({"data": {"mine": ROWS}}, "data: mine: rows by split are needed"),
        ({"data": {"mine": {"train": ROWS}}}, "data: mine: needs the splits train and validation (or test)"),
        ({"data": {"mine": {"trian": ROWS}}}, "data: mine: unknown split 'trian'. Did you mean 'train'?"),
        ({"data": {"mine": {"train": [], "test": ROWS}}}, "data: mine: train: no rows"),
        ({"data": {"mine": {"train": "rows", "test": ROWS}}}, "rows are mappings from column to text"),
        ({"data": {"mine": {"train": [3], "test": ROWS}}}, "data: mine: train: row 1: a row is a mapping"),
        ({"data": {"mine": {"train": [*ROWS, {"sentence": "a", "label": 2}], "test": ROWS}}}, "mine: train: row 41"),
        (
            {"data": {"mine": {"train": ROWS, "test": [{"sentence": "", "label": 0}]}}},
            "data: mine: test: row 1: column",
        ),
        ({"data": {"mine": {"train": [{"text": "a", "label": 1}], "test": ROWS}}}, "no column 'sentence'"),
        ({"task_file": ()}, "data: unknown task 'mine'"),
        ({"task_file": TOY | {"lables": 3}}, "task_file: unknown key 'lables'. Did you mean 'labels'?"),
        ({"task_file": TOY | {"labels": ["a"]}}, "task_file: labels: one class"),
        ({"task_file": TOY | {"name": "rte"}}, "task_file: name: 'rte' is a built-in task"),
        ({"task_file": [TOY, TOY | {"name": "yours"}]}, "task_file: name: 'yours' has no rows in data"),
        ({"task_file": [TOY, TOY]}, "task_file: a task named 'mine' stands in another task file too"),
        ({"task_file": "nowhere.toml"}, "nowhere.toml"),
        ({"suite": "mini", "tasks": ["mine"]}, "a suite and a list of tasks are both given"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], message: str, flags: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        fit(**{"data": DATA, "task_file": TOY} | flags | given)
    assert message in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_stopped_has_no_prompts(flags: dict[str, Any]) -> None:
    fitted = fit(DATA, task_file=TOY, **flags | {"lr_private": [0.1, 1e30]})
    assert fitted.runs == ["pt-joint-k4-s0-lr-private0.1"]
    assert [result.status for result in fitted.results] == ["finished", "stopped"]


@pytest.mark.parametrize("widgets", [True, False])
def test_a_bar_in_a_notebook(widgets: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "find_spec", lambda name: object() if widgets and name == "ipywidgets" else None)
    console = Console(file=io.StringIO(), force_jupyter=True)
    assert Monitor(tmp_path, 10, console).progress.disable == (not widgets)


def test_progress_shows_the_table(flags: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    fit(DATA, task_file=TOY, **flags | {"progress": True})
    assert "pt-joint-k4" in capsys.readouterr().out


def test_the_interface_is_of_the_package() -> None:
    assert compt_fast.fit is fit and compt_fast.Fitted is Fitted
