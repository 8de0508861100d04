"""Results of several jobs in one table."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from compt_fast.config.job import JobSettings
from compt_fast.runs.together import print_together, together
from compt_fast.training.results import RunResult, score_table, write_results


def result(row: str, seed: int, score: float, *tasks: str, apart: bool = False) -> RunResult:
    name = f"{row}-k4-s{seed}" + (f"-{tasks[0]}" if apart else "")
    scores = {task: {"scores": {"accuracy": score}, "primary": "accuracy", "n": 4, "predictions": {}} for task in tasks}
    return RunResult(name, row, 0, 4, seed, "finished", scores, score)


def test_jobs_with_tasks_in_common_make_a_table_and_a_row_runs_over_jobs() -> None:
    jobs = {
        "small": [result("pt", 0, 50.0, "a", apart=True), result("pt", 0, 70.0, "b", apart=True)],
        "other": [result("pt", 0, 10.0, "x", "y")],
        "large": [result("pt", 0, 90.0, "c", apart=True)],
        "multi": [result("mst", 0, 40.0, "a", "b", "c"), result("mst", 1, 60.0, "a", "b", "c")],
    }
    (table,) = together(jobs)
    assert list(table) == ["small", "large", "multi"], "large has its task in common with multi alone"
    made = score_table([one for results in table.values() for one in results])
    assert made.rows == [
        ["pt-k4", "1", "50.0", "70.0", "90.0", "70.0"],
        ["mst-k4", "2", *["50.0 ± 14.1"] * 3, "50.0 ± 14.1"],
    ]
    assert together({name: jobs[name] for name in ("small", "other", "large")}) == []
    assert together({}) == []


def test_rows_that_two_jobs_have_of_one_task_stay_two() -> None:
    jobs = {
        "with": [result("pt", seed, 50.0 + seed, "a", apart=True) for seed in (0, 1)] + [result("mst", 0, 1.0, "a")],
        "without": [result("pt", seed, 80.0, "a", apart=True) for seed in (0, 1)],
    }
    jobs["other seed"] = [result("pt", 2, 90.0, "a", apart=True)]
    (table,) = together(jobs)
    rows = score_table([one for results in table.values() for one in results]).rows
    assert rows == [
        ["pt-k4 (with)", "2", "50.5 ± 0.7"],
        ["mst-k4", "1", "1.0"],
        ["pt-k4 (without)", "2", "80.0 ± 0.0"],
        ["pt-k4 (other seed)", "1", "90.0"],
    ]


def test_only_jobs_scored_in_one_way_share_a_printed_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = {}
    for name, row, size in (("one", "pt", 4), ("two", "spp", 4), ("three", "mst", 5)):
        jobs[name] = JobSettings(out=str(tmp_path / name), eval_size=size)
        (tmp_path / name).mkdir()
        write_results(tmp_path / name, [result(row, 0, 50.0, "a", "b")], 1.0)
    print_together(Console(), jobs)
    said = capsys.readouterr().out
    assert "jobs one and two together:" in said and "pt-k4" in said and "spp-k4" in said and "mst-k4" not in said
