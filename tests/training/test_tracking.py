"""What trackers are told, and that none of them ends a training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compt_fast.config.flags import read_flags
from compt_fast.runs.job import Job
from compt_fast.training.results import RunResult
from compt_fast.training.trackers import TRACKERS, Backend, Status, TrackedRun
from compt_fast.training.tracking import RECORD, Tracking
from tests.helpers import jobs


class Noted:
    """A tracker that keeps what it is told."""

    def __init__(self, run: TrackedRun) -> None:
        self.run = run
        self.last: Mapping[str, int] = {}
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.ended: list[Status] = []

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self.rows.append((step, dict(numbers)))

    def close(self, status: Status) -> None:
        self.ended.append(status)


def failing(*_: object) -> None:
    raise OSError("disk full\nand more")


Opened = dict[str, list[Noted]]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """What is opened of two trackers, `good` and `bad`."""
    found: Opened = {"good": [], "bad": []}

    def backend(into: list[Noted]) -> Backend:
        def begin(run: TrackedRun) -> Noted:
            into.append(Noted(run))
            return into[-1]

        return Backend(begin, packages=())

    for name, into in found.items():
        TRACKERS[name] = backend(into)
    yield found
    for name in found:
        del TRACKERS[name]


@pytest.fixture(scope="module")
def job(tiny_t5: Path, toys: list[Path]) -> Job:
    return jobs.opened(jobs.settings(tiny_t5, toys, seeds="0,1"))


def record(run: str, step: int, loss: float | None = 1.5) -> dict[str, Any]:
    return {
        "run": run,
        "step": step,
        "loss": loss,
        "gradient_norm": 0.5,
        "learning_rate": {"source": 0.3},
        "tokens_per_second": 99.0,
    }


def tracking(job: Job, folder: Path, *track: str, **changes: Any) -> Tracking:
    folder.mkdir(exist_ok=True)
    run_of = {run.id: run for run in job.runs}.__getitem__
    return Tracking(folder, replace(job.settings, track=list(track), track_every=5), run_of, **changes)


def test_curves_scores_and_the_end(job: Job, tmp_path: Path, opened: Opened) -> None:
    told, run = tracking(job, tmp_path / "a", "good"), job.runs[0].id
    for step in range(1, 13):
        told.step([record(run, step, None if step == 10 else 1.5)])
    tasks = {"rte": {"scores": {"accuracy": 50.0}, "n": 3}}
    told.scores(run, 12, "development", tasks, 50.0)
    told.ended(RunResult.finished(job.runs[0], tasks, 50.0), 12)
    told.close()
    (noted,) = opened["good"]
    assert [step for step, _ in noted.rows] == [1, 5, 10, 12, 12]
    assert noted.rows[0][1] == {
        "loss": 1.5,
        "gradient_norm": 0.5,
        "tokens_per_second": 99.0,
        "learning_rate/source": 0.3,
    }
    assert "loss" not in noted.rows[2][1], "a loss that is not finite is no point"
    assert noted.rows[3][1] == {"development/average": 50.0, "development/rte/accuracy": 50.0}
    assert noted.rows[4][1] == {"final/average": 50.0, "final/rte/accuracy": 50.0}
    assert noted.ended == ["finished"]


def test_what_a_run_is_called(job: Job, tmp_path: Path, opened: Opened) -> None:
    run = job.runs[1]
    tracking(job, tmp_path / "a", "good").step([record(run.id, 1)])
    tracking(job, tmp_path / "a", "good").step([record(run.id, 1)])
    tracking(job, tmp_path / "a", "good", stage="sources-m2").step([record(run.id, 1)])
    tracking(job, tmp_path / "b", "good").step([record(run.id, 1)])
    first, again, stage, other = (noted.run for noted in opened["good"])
    assert (first.name, first.group, first.folder) == (run.id, "a", tmp_path / "a" / "good")
    assert first.config["seed"] == 1 and first.config["model"] == job.settings.model
    assert again == first, "the same tracked run when the job goes on"
    assert stage.name == f"sources-m2/{run.id}" and stage.folder == first.folder
    assert len({first.key, stage.key, other.key}) == 3


def test_what_stands_there_is_not_told_again(job: Job, tmp_path: Path, opened: Opened) -> None:
    told, run = tracking(job, tmp_path / "a", "good"), job.runs[0].id
    told.step([record(run, 1)])
    opened["good"][0].last = {"loss": 10, "gradient_norm": 10, "tokens_per_second": 10, "learning_rate/source": 5}
    for step in (5, 10, 15):
        told.step([record(run, step)])
    assert [(step, len(numbers)) for step, numbers in opened["good"][0].rows] == [(1, 4), (10, 1), (15, 4)]


@pytest.mark.parametrize("where", ["log", "close"])
def test_a_failure_is_one_note_and_the_others_go_on(
    where: str,
    job: Job,
    tmp_path: Path,
    opened: Opened,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told, run = tracking(job, tmp_path / "a", "bad", "good"), job.runs[0].id
    told.step([record(run, 1), record(job.runs[1].id, 1)])
    for noted in opened["bad"]:
        monkeypatch.setattr(noted, where, failing)
    for step in (2, 5, 10):
        told.step([record(run, step)])
    told.close()
    said = capsys.readouterr().err
    assert said == "note: --track bad has failed (disk full); the training goes on without it\n"
    assert sorted(len(noted.rows) for noted in opened["good"]) == [1, 3]
    assert [noted.ended for noted in opened["good"]] == [["interrupted"]] * 2


def test_a_tracker_that_cannot_be_opened(
    job: Job, tmp_path: Path, opened: Opened, capsys: pytest.CaptureFixture[str]
) -> None:
    TRACKERS["bad"] = Backend(failing, packages=())  # type: ignore[arg-type]
    told = tracking(job, tmp_path / "a", "bad", "good")
    for step in (1, 5):
        told.step([record(job.runs[0].id, step)])
    assert capsys.readouterr().err.count("note: --track bad has failed") == 1
    assert len(opened["good"][0].rows) == 2


def test_what_a_kill_has_lost_is_filled_in(job: Job, tmp_path: Path, opened: Opened) -> None:
    run, other = (run.id for run in job.runs)
    told = tracking(job, tmp_path / "a", "good", stage="sources-m2", begun={run: 11})
    written = [record(one, step) for step in range(1, 14) for one in (run, other)]
    (tmp_path / "a" / "sources-m2").mkdir()
    lines = "".join(json.dumps(each) + "\n" for each in written)
    (tmp_path / "a" / "sources-m2" / "metrics.jsonl").write_text(lines + '{"run": "torn')
    told.step([record(run, 15), record(other, 15)])
    assert [[step for step, _ in noted.rows] for noted in opened["good"]] == [[1, 5, 10, 15], [15]]


def test_a_run_that_was_stopped(job: Job, tmp_path: Path, opened: Opened) -> None:
    told, run = tracking(job, tmp_path / "a", "good"), job.runs[0]
    told.step([record(run.id, 1)])
    told.ended(RunResult.stopped(run, "loss not finite"), 1)
    assert opened["good"][0].ended == ["stopped"] and len(opened["good"][0].rows) == 1


def test_without_a_tracker_nothing_is_written(job: Job, tmp_path: Path) -> None:
    told = tracking(job, tmp_path / "a")
    told.step([record(job.runs[0].id, 5)])
    told.close()
    assert not list((tmp_path / "a").iterdir())


def test_a_job_goes_on_under_the_same_ids(job: Job, tmp_path: Path, opened: Opened) -> None:
    told = tracking(job, tmp_path / "a", "good")
    told.step([record(job.runs[0].id, 1)])
    assert set(json.loads((tmp_path / "a" / RECORD).read_text())) == {"id"}


def test_the_flag_takes_a_list() -> None:
    settings = read_flags({"track": "wandb,mlflow", "track_every": "3"}, None)
    assert settings.track == ["wandb", "mlflow"] and settings.track_every == 3
