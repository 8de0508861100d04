"""`train --halve` and `--budget`: who survives, who can go on, and with which bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from compt_fast import evaluate, train
from tests.helpers import jobs
from tests.helpers.jobs import Line, error_of

SWEEP = {"lr_private": "0.001,0.01,0.05", "lr_source": "0.01,0.1,0.3", "steps": 9, "method": "spp", "shots": 4}


def line_of(line: Line, out: Path, **flags: Any) -> list[str]:
    return line(out, **(SWEEP | flags))


def entries(folder: Path) -> dict[str, dict[str, Any]]:
    return {entry["id"]: entry for entry in jobs.results(folder)["runs"]}


def check_survivors(folder: Path, plain: Path) -> list[str]:
    """The finished runs of a folder, which are bit for bit those of the other one."""
    mine, theirs = entries(folder), entries(plain)
    ended = [name for name, entry in mine.items() if entry["status"] == "finished"]
    for name in ended:
        assert mine[name] == theirs[name]
        own, other = jobs.prompts(folder)[name], jobs.prompts(plain)[name]
        assert own.keys() == other.keys() and all(torch.equal(own[key], other[key]) for key in own)
        assert jobs.losses(folder, name) == jobs.losses(plain, name)
    return ended


@pytest.mark.parametrize("select", ["last", "best"])
def test_survivors_are_what_they_are_untouched(
    select: str, line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(line_of(line, tmp_path / "plain", select=select)) == 0
    capsys.readouterr()
    for form in ("sync", "async"):
        folder = tmp_path / form
        assert train.main(line_of(line, folder, select=select, halve=form, rungs="1,3", runs_at_once=4)) == 0
        shown = capsys.readouterr().out
        assert "halving: after 1 and 3 steps one run in 3 goes on" in shown and "stopped early: spp-" in shown
        ended = check_survivors(folder, tmp_path / "plain")
        found = entries(folder)
        early = {name: entry for name, entry in found.items() if entry["status"] == "stopped"}
        assert len(ended) + len(early) == 9 and (len(ended) == 1 if form == "sync" else 1 <= len(ended) < 5)
        at_first = sum(entry["step"] == 1 for entry in early.values())
        assert at_first == 6 if form == "sync" else at_first >= 4
        steps = sum(len(jobs.losses(folder, name)) for name in found)
        assert steps == sum(entry.get("step", 9) for entry in found.values()) < 9 * 9 / 2
        for name, entry in early.items():
            assert entry["reason"].startswith("development ") and entry["tasks"] == {}
            assert entry["development"]["step"] <= entry["step"]
            assert (folder / "prompts" / name / "manifest.json").is_file()
            assert f"- {name}: stopped after {entry['step']} step" in (folder / "results.md").read_text()

    name = next(name for name, entry in found.items() if entry["status"] == "stopped")
    capsys.readouterr()
    assert evaluate.main([str(folder)]) == 0, "of the finished ones"
    assert "the same numbers as in results.json" in capsys.readouterr().out
    assert evaluate.main([str(folder), f"--runs={name}"]) == 0
    assert "average" in capsys.readouterr().out
    assert train.main([f"--resume={folder}", f"--runs={name}"]) == 0
    assert name in check_survivors(folder, tmp_path / "plain")
    assert {key for key, entry in entries(folder).items() if entry != found[key]} == {name}
    assert error_of(capsys, train.main, [f"--resume={folder}", f"--runs={name}"]).startswith(
        f"error: {name}: it has fin"
    )
    assert "unknown run 'nobody'" in error_of(capsys, train.main, [f"--resume={folder}", "--runs=nobody"])
    assert "say which by --resume" in error_of(capsys, train.main, [f"--runs={name}"])


def test_the_best_at_each_rung_goes_on(line: Line, tmp_path: Path) -> None:
    assert train.main(line_of(line, tmp_path / "run", halve="sync", rungs="2,4")) == 0
    found = entries(tmp_path / "run").values()
    state = json.loads(json.dumps({e["id"]: e for e in found}))
    first = {e["id"]: e["development"]["average"] for e in state.values() if e.get("step") == 2}
    second = {e["id"]: e["development"]["average"] for e in state.values() if e.get("step") == 4}
    assert len(first) == 6 and len(second) == 2
    assert {e["id"] for e in state.values()} - first.keys() - second.keys()


def test_a_budget_ends_the_job_and_a_larger_one_goes_on(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, folder = tmp_path / "plain", tmp_path / "run"
    assert train.main(line_of(line, plain)) == 0
    assert train.main(line_of(line, folder, halve="sync", rungs="1,3", runs_at_once=4, budget="600tokens")) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "the budget of 600tokens is spent: 0 of 9 runs finished; best on development so far spp-" in shown
    assert f"--resume {folder} --budget ..." in shown
    reasons = [entry.get("reason", "") for entry in entries(folder).values()]
    assert any(reason == "the budget of 600tokens was spent" for reason in reasons)
    assert train.main([f"--resume={folder}"]) == 0, "there is nothing of it left"
    assert [entry.get("reason", "") for entry in entries(folder).values()] == reasons
    assert train.main([f"--resume={folder}", "--budget=none"]) == 0
    assert len(check_survivors(folder, plain)) == 1
    assert error_of(capsys, train.main, line_of(line, tmp_path / "x", budget="much")).startswith(
        "error: --budget takes a time (90s, 30m, 4h), training tokens (2e6tokens) or none, not 'much'"
    )


def test_a_budget_that_is_spent_lets_nobody_begin(line: Line, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train.main(line_of(line, folder, halve="sync", rungs="1,3", runs_at_once=4, budget="1tokens")) == 0
    first = entries(folder)
    assert train.main([f"--resume={folder}"]) == 0
    begun = [entry for entry in entries(folder).values() if entry.get("step")]
    assert len(begun) == 4 and all(entry["development"]["step"] == entry["step"] for entry in begun)
    assert {name for name, entry in first.items() if entry.get("step")} == {entry["id"] for entry in begun}
    assert train.main([f"--resume={folder}", "--budget=2tokens"]) == 0
    config = json.loads((folder / "config.json").read_text())
    assert config["flags"]["budget"] == "2tokens", "and so it goes on where it is killed"
