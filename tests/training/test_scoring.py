"""Scoring in training: runs that end together go through the trunk together, and score what they score alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.runs.job import Job
from compt_fast.training.interrupts import Interrupted, Interrupts
from compt_fast.training.loop import Trainer
from compt_fast.training.plan import Run
from tests.helpers import jobs

Widths = list[tuple[int, ...]]


@pytest.fixture(scope="module")
def job(tiny_t5: Path, toys: list[Path]) -> Job:
    return jobs.opened(jobs.settings(tiny_t5, toys, eval_batch_size=20))


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> Widths:
    """The rows of each batch that a pass joined, of every pass that was ranked."""
    found: Widths = []
    rank = PackedTrunk.label_scores

    def noted(self: PackedTrunk, prompts: Any, batch: Any, *rest: Any) -> Any:
        found.append(batch.joined or (batch.rows,))
        return rank(self, prompts, batch, *rest)

    monkeypatch.setattr(PackedTrunk, "label_scores", noted)
    return found


def plan(job: Job, tiny_t5: Path, toys: list[Path], *changes: dict[str, Any]) -> list[Run]:
    names = [path.stem for path in toys]
    return [run for each in changes for run in jobs.planned(job.trunk, names, jobs.settings(tiny_t5, toys, **each))]


def scored_alone(job: Job, runs: list[Run], folder: Path, **flags: Any) -> None:
    """Each run's results and prompts in `folder` are those of a training of one run at a time."""
    jobs.train(job, runs, folder.parent / "alone", runs_at_once=1, **flags)
    assert jobs.results(folder)["runs"] == jobs.results(folder.parent / "alone")["runs"]


def test_runs_that_end_together_are_scored_together(
    job: Job, widths: Widths, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    runs = plan(
        job,
        tiny_t5,
        toys,
        {"method": "pt", "seeds": "0,1"},
        {"method": "scp", "gates": "input", "steps": 3},
        {"method": "spp,slp", "seeds": "0,1"},
        {"method": "dept", "seeds": "0,1"},
    )
    jobs.train(job, runs, tmp_path / "all", runs_at_once=len(runs))
    of_pt = [joined for joined in widths if set(joined) == {6}]
    assert sum(map(len, of_pt)) == 12 and max(map(len, of_pt)) == 3, "runs of one task, 6 rows each, 20 rows in a pass"
    assert all(sum(joined) <= 20 for joined in widths)
    scored_alone(job, runs, tmp_path / "all")


def test_development_samples_are_scored_together(
    job: Job, widths: Widths, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    runs = plan(job, tiny_t5, toys, {"method": "pt", "steps": 3}, {"method": "spp", "shots": 2, "steps": 3})
    jobs.train(job, runs, tmp_path / "all", select="best")
    assert widths[:3] == [(4, 4, 4, 6)] * 3, "after each of three steps"
    scored_alone(job, runs, tmp_path / "all", select="best")


def test_what_ended_before_an_interrupt_stays(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's prompts and results are written when its own scoring ends, the others' scoring is to be repeated."""
    runs = plan(job, tiny_t5, toys, {"method": "spp", "seeds": "0,1,2", "steps": 2})
    write, written = Trainer.write_results, []

    def check(self: Interrupts) -> None:
        if written:
            raise Interrupted(2)

    monkeypatch.setattr(Trainer, "write_results", lambda self: written.append(1) or write(self))
    monkeypatch.setattr(Interrupts, "check", check)
    with pytest.raises(Interrupted):
        jobs.train(job, runs, tmp_path / "cut")
    assert [run["status"] for run in jobs.results(tmp_path / "cut")["runs"]] == ["finished", "unfinished", "unfinished"]
    assert list(jobs.prompts(tmp_path / "cut")) == [runs[0].id]
