"""The command `check`: what it shows, how wide, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from compt_fast import check, train
from tests.helpers import jobs
from tests.helpers.jobs import error_of
from tests.runs.test_survey import flawed


def test_a_flawed_task(
    tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    chosen = {"method": "pt,spp", "max_source_length": 40, "label_mode": "natural,numeric", "gates": "tied"}
    chosen["sampling"] = "random"  # of a label there is no row
    given = jobs.settings(tiny_t5, [flawed(tmp_path / "task")], **chosen)
    line = [text for text in jobs.arguments(given, tmp_path) if not text.startswith("--out")]
    before = sorted(tmp_path.rglob("*"))
    assert check.main(line) == 1
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"
    said = capsys.readouterr().out
    for part in (
        "no 6, yes 6, maybe 0",
        "  flawed: text: man sees 0\n    natural: no\n    numeric: 0\n",
        "4 runs (pt, spp), 4 side by side",
        "4 steps a run",
        "note: --gates changes nothing in pt\n",
        "warning: flawed, train: no row is labelled maybe\n",
        "warning: flawed, train: --max-source-length 40 cuts 1 of 12 rows",
        "warnings; nothing was trained, nothing was written",
    ):
        assert part in said, part
    tables = [text for text in said.splitlines() if text.startswith(("│", "┃", "┏", "└", "├", "┡"))]
    assert tables and max(map(len, tables)) <= 80


def test_a_sound_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert check.main(["--tasks=mini_stsb", "--method=pt", "--steps=2", "--eval-size=4"]) == 0
    said = capsys.readouterr().out
    assert not list(tmp_path.iterdir()) and "warning:" not in said
    assert "a score from 0 to 5" in said and "0 warnings; nothing was trained, nothing was written" in said


def test_wrong_input(tiny_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown task 'mini_rt'" in error_of(capsys, check.main, ["--tasks=mini_rt", f"--model={tiny_t5}"])
    said = error_of(capsys, check.main, ["--tasks=mini_rte", f"--model={tiny_t5}", "--method=p", "--source-tasks=rte"])
    assert "--source-tasks has no meaning" in said


def test_train_says_it_in_a_line_before_the_first_step(
    tiny_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {"method": "pt", "shots": "full", "max_train": 12, "steps": 1, "max_source_length": 40}
    given = jobs.settings(tiny_t5, [flawed(tmp_path / "task")], **chosen)
    assert train.main(jobs.arguments(given, tmp_path / "run")) == 0
    said = capsys.readouterr().out
    before, _, _ = said.partition("runs ended)")
    notes = [text for text in before.splitlines() if text.startswith("note: ")]
    assert any("--max-source-length 40 cuts" in note for note in notes)
    assert any("the trunk's tokenizer does not know" in note for note in notes)
