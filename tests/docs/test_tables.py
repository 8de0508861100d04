"""The tables of the pages of results, from run folders."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from scipy import stats

from compt_fast.runs.results import read_results
from tests.helpers.made_runs import made_run
from tests.helpers.pages import REPOSITORY


def test_costs_are_averages_with_intervals_numbers_a_task_and_seconds_a_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs"))
    import tables

    tasks = {"tasks": "mini_sst2,mini_imdb", "seeds": "0,1,2"}
    alone, _ = made_run(tmp_path / "alone", lambda config, task: 0.9, masked=False, method="pt", **tasks)
    both, _ = made_run(tmp_path / "both", lambda config, task: 0.1, masked=False, method="scp,mst", **tasks)
    monkeypatch.setattr(sys, "argv", ["tables.py", str(alone), str(both), "--costs", "--against", "mst"])
    tables.main()
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["method", "seeds", "average", "95 % interval", "parameters a task", "seconds a seed"]
    first, *others = lines[2:5]
    runs = read_results(alone)
    values = [sum(run.average or 0.0 for run in runs if run.seed == seed) / 2 for seed in (0, 1, 2)]
    mean = sum(values) / 3
    spread = stats.t.ppf(0.975, 2) * stats.sem(values)
    numbers = 5 * 192 + 2 * (192 * 192 + 192)  # tokens and an MLP
    assert first == ["`pt`", "3", f"{mean:.1f}", f"{mean - spread:.1f} to {mean + spread:.1f}", f"{numbers:,}", "0"]
    assert {line[0] for line in others} == {"`scp`", "`mst`"}
    assert [line[-1] for line in others] == ["-", "-"], "two methods of one job have no time of their own"
    assert {line[0] for line in lines[8:]} == {"pt", "scp"}
