"""A trainer of a cluster, in this process: what it reports, and that runs leave and enter without a bit lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from compt_fast.runs.job import Job
from compt_fast.scaling.messages import Assignment, Ended, Order, Report, Work
from compt_fast.scaling.worker import Worker
from compt_fast.training.loop import Trainer
from compt_fast.training.plan import Run
from compt_fast.utils.errors import InputError
from tests.helpers import jobs


@pytest.fixture(scope="module")
def job(tiny_t5: Path, toys: list[Path]) -> Job:
    return jobs.opened(jobs.settings(tiny_t5, toys[:2], method="pt,spp", seeds="0,1", steps=6, checkpoint_every=3))


@pytest.fixture(scope="module")
def plain(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return jobs.train(job, job.runs, tmp_path_factory.mktemp("plain") / "run")


def worker_of(job: Job) -> Worker:
    made = Worker(1)
    made.open(Work(job.settings, job.trunk_hash, job.data.tasks))
    return made


@pytest.fixture
def worker(job: Job) -> Iterator[Worker]:
    made = worker_of(job)
    yield made
    made.close()


def given(*runs: Run, **held: object) -> list[Assignment]:
    return [Assignment(run, {}, None, {}, held.get(run.id)) for run in runs]  # type: ignore[arg-type]


def to_the_end(worker: Worker, order: Order) -> list[Report]:
    """All that it reports until it has no run."""
    reports = [worker.train(order)]
    while reports[-1].steps:
        reports.append(worker.train(Order(seconds=9)))
    return reports


def same(ended: Ended, plain: Trainer) -> None:
    """What came of a run is what a plain fleet makes of it."""
    assert ended.result == plain.results[ended.result.id]
    mine = load(ended.files["prompts"]["prompts.safetensors"])
    theirs = jobs.prompts(plain.folder)[ended.result.id]
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_what_it_reports_is_what_the_plain_fleet_makes(job: Job, plain: Trainer, worker: Worker) -> None:
    reports = to_the_end(worker, Order(given(*job.runs[:2]), seconds=9))
    assert [len(report.held) for report in reports] == [2, 2, 0]  # after three steps and six
    assert reports[0].steps == {run.id: 3 for run in job.runs[:2]}
    ended = reports[-1].ended
    assert ended.keys() == {run.id for run in job.runs[:2]}
    for one in ended.values():
        same(one, plain)
    records = [record["step"] for report in reports for record in report.records if record["run"] == job.runs[0].id]
    assert records == [1, 2, 3, 4, 5, 6]
    assert not [*worker._folder.glob("prompts/*")] and not worker._trainer.runs and worker.unchanged()


def test_a_run_that_leaves_goes_on_elsewhere_with_the_same_bits(job: Job, plain: Trainer, worker: Worker) -> None:
    first, second = job.runs[:2]
    began = worker.train(Order(given(first, second), seconds=0))  # a step
    assert began.steps == {first.id: 1, second.id: 1} and not began.held and not began.records
    left = worker.train(Order(leave=[second.id], seconds=0))
    assert left.steps == {first.id: 2} and left.held.keys() == {second.id}
    assert [(record["run"], record["step"]) for record in left.records] == [(second.id, 1)]
    other = worker_of(job)
    reports = to_the_end(other, Order(given(second, **dict(left.held)), seconds=9))
    same(reports[-1].ended[second.id], plain)
    other.close()
    same(to_the_end(worker, Order(seconds=9))[-1].ended[first.id], plain)


def test_an_interrupted_one_reports_all_that_its_runs_go_on_from(job: Job, plain: Trainer, worker: Worker) -> None:
    run = job.runs[0]
    worker.interrupt()
    report = worker.train(Order(given(run), seconds=9))
    assert report.steps == {run.id: 1} and report.held[run.id].step == 1 and len(report.records) == 1
    # One that was through, and not scored when the interrupt came, takes no step more.
    whole = worker_of(job)
    whole.train(Order(given(run), seconds=9))
    through = whole.train(Order(seconds=9)).held[run.id]
    assert through.step == 6
    reports = to_the_end(worker_of(job), Order(given(run, **{run.id: through}), seconds=9))
    assert reports[0].taken == 0
    same(reports[0].ended[run.id], plain)


def test_another_trunk_is_refused_and_memory_that_runs_out_is_said(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Worker(1)
    with pytest.raises(InputError, match="every machine of the cluster needs the same checkpoint"):
        made.open(Work(job.settings, "0" * 64, job.data.tasks))
    made.open(Work(replace(job.settings, runs_at_once=1), job.trunk_hash, job.data.tasks))

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Trainer, "train_step", full)
    with pytest.raises(InputError, match="out of memory with 1 run side by side: go on with a lower --runs-at-once"):
        made.train(Order(given(job.runs[0])))
    made.close()
