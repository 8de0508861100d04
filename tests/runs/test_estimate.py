"""What a job will take is measured without a trace of the measuring."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.runs import estimate as module
from compt_fast.runs.estimate import Estimate, estimate
from compt_fast.runs.job import Job
from compt_fast.runs.summary import print_plan
from compt_fast.training.interrupts import Interrupts
from compt_fast.training.loop import Trainer
from compt_fast.training.monitor import Monitor
from compt_fast.training.plan import Run
from compt_fast.training.results import RunResult
from compt_fast.training.scoring import Scores, Wanted
from compt_fast.utils.errors import InputError
from tests.helpers import jobs


@pytest.fixture(scope="module")
def job(tiny_t5: Path, toys: list[Path]) -> Job:
    return jobs.opened(
        jobs.settings(tiny_t5, toys, method="spp,silp,pt-joint", runs_at_once=2, steps=150, eval_batch_size=16)
    )


def trainer_of(job: Job, folder: Path) -> Trainer:
    return Trainer(job.runs, job.trunk, job.trunk_hash, job.data, job.settings, folder, jobs.drawn)


def test_a_long_job_is_measured_and_left_as_it_was(job: Job, tmp_path: Path) -> None:
    trainer = trainer_of(job, tmp_path)
    found = estimate(trainer)
    assert found is not None
    # Two runs side by side of three: one and a half times the steps of the probe.
    assert found.whole == pytest.approx(found.step * 225 + found.scoring * 3)
    assert found.step > 0 and found.scoring > 0 and found.memory > 2**20
    assert trainer.cohorts == [] and trainer.step == 0 and trainer.waiting == job.runs
    assert list(tmp_path.iterdir()) == []


def test_runs_that_learn_from_teachers_are_measured_with_some(tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    changes = {"method": "mpt-source", "steps": 300, "eval_batch_size": 16}
    taught = jobs.opened(jobs.settings(tiny_t5, toys, **changes))
    assert estimate(trainer_of(taught, tmp_path)) is not None


def measured(
    monkeypatch: pytest.MonkeyPatch, trainer: Trainer, seconds: Callable[[list[Run]], float] = lambda runs: 1.0
) -> tuple[Estimate | None, list[list[str]], list[int]]:
    """The estimate, which runs took steps together, and the prompt lengths that were scored. A step of some runs
    is said to take what `seconds` says.
    """
    probes: list[list[str]] = []
    scored: list[int] = []
    taken, predict = module._step_seconds, module.predict

    def step(probe: Trainer, steps: int) -> float:
        taken(probe, 0)
        probes.append([run.id for run in probe.runs])
        return seconds(probe.runs)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_step_seconds", step)
        patch.setattr(
            module,
            "predict",
            lambda *rest, **more: scored.append(rest[1][0].prompts.shape.target_length) or predict(*rest, **more),
        )
        return estimate(trainer), probes, scored


def test_the_runs_that_need_most_are_measured(
    tiny_t5: Path, toys: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = jobs.settings(
        tiny_t5, toys, method="pt-joint,spp", prompt_length="2,5,3", seeds="0,1", runs_at_once=3, steps=150
    )
    trainer = trainer_of(jobs.opened(flags), tmp_path)
    monkeypatch.setattr(module, "PARTS", 1)
    _, probes, scored = measured(monkeypatch, trainer)
    # The longest prompts first; among them spp, which has more parameters; else the plan's order.
    most = ["spp-n3-k4-s0-prompt-length5", "spp-n3-k4-s1-prompt-length5", "pt-joint-k4-s0-prompt-length5"]
    assert probes == [most] and set(scored) == {5}
    monkeypatch.setattr(module, "PARTS", 3)
    monkeypatch.setattr(module, "WORTH", 1)
    _, probes, _ = measured(monkeypatch, trainer)
    assert probes[0] == most and len(probes) == 4, "and in a job of parts before them"


def test_a_job_of_runs_that_differ_is_measured_from_place_to_place(
    tiny_t5: Path, toys: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few dear runs among many cheap ones do not make the whole job dear."""
    changes = {
        "method": "pt-joint,scp",
        "seeds": "0,1,2,3,4,5,6,7",
        "shots": "4,8",
        "runs_at_once": 2,
        "eval_batch_size": 8,
    }
    job = jobs.opened(jobs.settings(tiny_t5, toys, steps=100, **changes))
    dear = job.runs[-2:]
    runs = [*job.runs[:16], *dear]  # the first 16 are pt
    assert {run.config.method for run in runs[:16]} == {"pt-joint"} and {run.config.method for run in dear} == {"scp"}
    trainer = trainer_of(job, tmp_path)
    trainer.runs = runs

    def seconds(probed: list[Run]) -> float:
        return sum(10.0 if run.config.method == "scp" else 1.0 for run in probed)

    found, probes, _ = measured(monkeypatch, trainer, seconds)
    assert found is not None and [set(ids) <= {run.id for run in dear} for ids in probes] == [True, False, False, False]
    assert found.step == pytest.approx(2.0) and found.whole < 1.5 * 100 * 18


def test_what_was_done_before_is_not_counted_again(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_of(job, tmp_path)
    whole = measured(monkeypatch, trainer)[0]
    trainer.begun = {run.id: 50 for run in job.runs[:2]}
    rest = measured(monkeypatch, trainer)[0]
    assert whole is not None and rest is not None
    # Of runs that take a second a step two by two, 50 steps of both fewer.
    assert whole.step == rest.step == 1.0
    assert whole.whole - 3 * whole.scoring == 225 and rest.whole - 3 * rest.scoring == 175
    trainer.results = {run.id: RunResult.stopped(run, "") for run in job.runs}
    assert measured(monkeypatch, trainer) == (None, [], [])


def test_a_job_of_few_steps_and_many_rows_to_score_is_measured(
    tiny_t5: Path, toys: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"method": "pt-joint", "seeds": "0,1,2", "runs_at_once": 3, "steps": 4, "eval_batch_size": 6}
    few, many = (
        trainer_of(jobs.opened(jobs.settings(tiny_t5, toys, **chosen, eval_size=n)), tmp_path) for n in (6, 60)
    )
    assert few.total_steps == many.total_steps == 12
    assert module.scored_rows(few, few.runs[0]) == 18 and module.scored_rows(many, many.runs[0]) == 36
    steps = 3 * 4 * 4 * module.TRAINED
    cost = (1 + module.MEASURED) * 3 * 4 * module.TRAINED + 6
    monkeypatch.setattr(module, "WORTH", (3 * 18 + steps) / cost + 0.01)
    assert measured(monkeypatch, few)[0] is None
    assert measured(monkeypatch, many)[0] is not None


def test_rows_that_select_the_best_weights_count(tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    changes = {"method": "pt-joint", "shots": 4, "steps": 25, "eval_size": 6}
    trainers = {
        how: trainer_of(jobs.opened(jobs.settings(tiny_t5, toys, select=how, **changes)), tmp_path / how)
        for how in ("last", "best")
    }
    rows = {how: module.scored_rows(trainer, trainer.runs[0]) for how, trainer in trainers.items()}
    assert rows["last"] == 18
    best = trainers["best"]
    scored: list[int] = []
    score = best.score
    best.folder.mkdir()

    def counted(wanted: Iterable[Wanted], interrupts: Interrupts) -> Scores:
        listed = list(wanted)
        scored.extend(sum(len(of.inputs) for of in sets) for *_, sets in listed)
        return score(listed, interrupts)

    best.score = counted  # type: ignore[assignment]
    with Monitor(best.folder, 25, Console(quiet=True), tensorboard=False) as monitor, Interrupts() as interrupts:
        best.train(monitor, interrupts)
    assert rows["best"] == sum(scored) > 18


def test_a_short_job_is_not_measured(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*rest: Any) -> Any:
        raise AssertionError("a step was taken")

    monkeypatch.setattr(PackedTrunk, "row_losses", never)
    trainer = trainer_of(job, tmp_path)
    with pytest.raises(AssertionError, match="a step was taken"):
        estimate(trainer)
    monkeypatch.setattr(Trainer, "steps_of", lambda self, run: 9)
    assert estimate(trainer) is None


def test_a_lack_of_memory_shows_before_the_job_begins(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*rest: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PackedTrunk, "row_losses", failing)
    with pytest.raises(InputError, match="out of memory with 2 runs side by side: lower --runs-at-once"):
        estimate(trainer_of(job, tmp_path))


def test_the_plan_shows_it(job: Job, tmp_path: Path) -> None:
    trainer = trainer_of(job, tmp_path)
    console = Console(file=io.StringIO(), width=200, markup=False)
    with console.capture() as capture:
        print_plan(console, trainer, Estimate(step=0.25, scoring=2.0, whole=125.0, memory=3 * 2**30))
    said = capture.get()
    assert "3 runs (spp, silp, pt-joint), 2 side by side\n" in said
    assert "450 steps in all" in said and "memory in all 3.0 GiB; about 2 min 5 s" in said
    assert "0.25 s a step of runs side by side and 2.0 s to score a run" in said
    sizes = sorted(run.parameters for run in job.runs)[1:]
    assert f"parameters and moments of the runs side by side {12 * sum(sizes) / 2**20:,.0f} MiB" in said


def test_a_plan_that_goes_on_shows_the_time_of_what_is_left(job: Job, tmp_path: Path) -> None:
    trainer = trainer_of(job, tmp_path)
    trainer.begun = {job.runs[1].id: 50}
    trainer.results = {job.runs[0].id: RunResult.stopped(job.runs[0], "")}
    console = Console(file=io.StringIO(), width=200, markup=False)
    with console.capture() as capture:
        print_plan(console, trainer, Estimate(step=0.25, scoring=2.0, whole=125.0, memory=3 * 2**30))
    said = capture.get()
    assert "3 runs (spp, silp, pt-joint): 1 done, 2 left (1 begun), 2 side by side\n" in said
    assert "450 steps in all, 250 of them left; " in said and "about 2 min 5 s for what is left (" in said
