"""Runs that are stopped, resumed and added between steps: no bit of any run depends on it, nor on a kill meanwhile."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from compt_fast.runs.job import Job
from compt_fast.training import checkpoint, stopped
from compt_fast.training.control import Control, Together, Uncontrolled
from compt_fast.training.interrupts import Interrupts
from compt_fast.training.loop import Trainer
from compt_fast.training.monitor import Monitor
from compt_fast.training.plan import Run
from compt_fast.utils.errors import InputError
from tests.helpers import jobs
from tests.training.test_loop import plan

REASON = "asked to"


class Killed(BaseException):
    """Ends a job as SIGKILL would, but for what `finally` blocks remove."""


@dataclass
class Scripted(Uncontrolled):
    """Does what stands in `script` for the job's step, once each."""

    script: Mapping[int, list[Callable[[Trainer], None]]] = field(default_factory=dict)
    done: list[int] = field(default_factory=list)
    told: list[list[int]] = field(default_factory=list)

    def act(self, trainer: Trainer, monitor: Monitor, interrupts: Interrupts) -> None:
        due = [step for step in self.script if step <= trainer.step and step not in self.done]
        for step in due:
            for change in self.script[step]:
                change(trainer)
        self.done += due

    def kept(self, trainer: Trainer) -> None:
        self.told.append(list(self.done))

    def state(self) -> dict[str, Any]:
        return {"done": self.done}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.done = list(state["done"])


def stop(name: str) -> Callable[[Trainer], None]:
    return lambda trainer: trainer.stop(name, REASON)


def resume(name: str) -> Callable[[Trainer], None]:
    return lambda trainer: trainer.resume(name)


def go(job: Job, runs: list[Run], folder: Path, script: Mapping[int, Any] | Control, **changes: Any) -> Trainer:
    """Begin, or go on with, a job whose control follows a script, or is that; runs that it adds are put to `runs`."""
    folder.mkdir(exist_ok=True)
    of = (job.trunk, job.trunk_hash, job.data, replace(job.settings, **changes), folder)
    scripted = Scripted("scripted", script) if isinstance(script, Mapping) else script
    control = Together([Uncontrolled("other"), scripted])
    trainer = Trainer(list(runs), *of, control=control, record=runs.extend)
    saved = checkpoint.load_latest(folder / "checkpoints", trainer.identity)
    with Monitor(folder, 1, Console(quiet=True), tensorboard=False) as monitor, Interrupts() as interrupts:
        if saved is None:
            monitor.rewind(0, 0)
        else:
            trainer.note_results(saved)
            trainer.restore(monitor, saved)
        trainer.train(monitor, interrupts)
    return trainer


@pytest.fixture(scope="module")
def job(tiny_t5: Path, toys: list[Path]) -> Job:
    return jobs.opened(jobs.settings(tiny_t5, toys))


def curves(folder: Path, runs: list[Run]) -> dict[str, list[dict[str, Any]]]:
    """The records of each run, but for its speed."""
    records = [record | {"tokens_per_second": 0} for record in jobs.metrics(folder)]
    return {run.id: [record for record in records if record["run"] == run.id] for run in runs}


def check_same(folder: Path, plain: Path, runs: list[Run], *, losses: bool = True) -> None:
    """Prompts, scores and curves of the runs are those of the other folder, bit for bit; losses as they stand in one
    pass with others are the same up to rounding.
    """
    mine, theirs = jobs.prompts(folder), jobs.prompts(plain)
    for run in runs:
        assert mine[run.id].keys() == theirs[run.id].keys()
        assert all(torch.equal(mine[run.id][name], t) for name, t in theirs[run.id].items()), run.id
    entries = [{entry["id"]: entry for entry in jobs.results(of)["runs"]} for of in (folder, plain)]
    assert all(entries[0][run.id] == entries[1][run.id] for run in runs)
    if losses:
        assert curves(folder, runs) == curves(plain, runs)


@pytest.mark.parametrize("select", ["last", "best"])
def test_a_run_that_was_stopped_and_resumed_is_as_if_never_stopped(
    select: str, job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    changes = {"select": select, "router": "relaxed-bernoulli", "normalisation": "auto"}
    runs = plan(job, tiny_t5, toys, method="spp,pt-joint,slp", steps=6, **changes)
    first, second, third = (run.id for run in runs)
    jobs.train(job, runs, tmp_path / "plain", select=select)
    script = {2: [stop(first)], 3: [stop(third), resume(first)], 4: [stop(first)], 5: [resume(third), resume(first)]}
    trainer = go(job, runs, tmp_path / "cut", script, select=select)
    assert [result.status for result in trainer.ended] == ["finished"] * 3
    check_same(tmp_path / "cut", tmp_path / "plain", runs)
    assert not list((tmp_path / "cut").glob("stopped/*/*")), "what has gone on needs no file"


def test_what_is_stopped_keeps_its_prompts_and_what_it_needs(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    runs = plan(job, tiny_t5, toys, method="spp,pt-joint", steps=5)
    name = runs[0].id
    trainer = go(job, runs, tmp_path / "cut", {3: [stop(name)]})
    short = [replace(run, config=replace(run.config, steps=5)) for run in runs]
    half = go(job, short, tmp_path / "half", {3: [stop(name), stop(runs[1].id)]})
    result = trainer.results[name]
    assert (result.status, result.reason, result.step, result.resumable) == ("stopped", REASON, 3, True)
    assert result.tasks == {} and jobs.results(tmp_path / "cut")["runs"][0]["step"] == 3
    assert f"- {name}: stopped after 3 steps, {REASON}" in (tmp_path / "cut" / "results.md").read_text()
    assert len(jobs.losses(tmp_path / "cut", name)) == 3
    manifest = json.loads((tmp_path / "cut" / "prompts" / name / "manifest.json").read_text())
    assert manifest["training"]["config"] == runs[0].config.to_json()
    check_same(tmp_path / "cut", tmp_path / "half", runs[:1])
    assert half.results[runs[1].id].step == 3

    kept = stopped.load(tmp_path / "cut", trainer.identity, name, 3)
    assert {key.split(".")[0] for key in kept.tensors[name]} == {"param", "first", "second"}
    again = go(job, runs, tmp_path / "cut", {5: [resume(name)]})
    jobs.train(job, runs, tmp_path / "plain")
    assert again.results[name].status == "finished"
    check_same(tmp_path / "cut", tmp_path / "plain", runs)


def test_runs_that_wait_can_be_stopped_and_freed_places_are_filled(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    runs = plan(job, tiny_t5, toys, method="pt-joint", seeds="0,1,2,3", steps=4)
    names = [run.id for run in runs]
    script = {0: [stop(names[2])], 1: [stop(names[0])], 3: [resume(names[0]), resume(names[2])]}
    trainer = go(job, runs, tmp_path / "cut", script, runs_at_once=2)
    assert trainer.results[names[0]].status == "finished"
    order = [record["run"] for record in jobs.metrics(tmp_path / "cut")]
    assert order[2:4] == [names[1], names[3]], "the place of the stopped one is taken at once"
    assert order.index(names[2]) > order.index(names[0], 2), "what goes on comes before what has not begun"
    jobs.train(job, runs, tmp_path / "plain")
    check_same(tmp_path / "cut", tmp_path / "plain", runs, losses=False)


def test_added_runs_are_as_if_planned(job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    runs = plan(job, tiny_t5, toys, method="spp,pt-joint", steps=4)
    known = runs[:1]
    trainer = go(job, known, tmp_path / "cut", {2: [lambda trainer: trainer.add(runs[1:])]})
    assert known == runs and [result.id for result in trainer.ended] == [run.id for run in runs]
    jobs.train(job, runs, tmp_path / "plain")
    check_same(tmp_path / "cut", tmp_path / "plain", runs, losses=False)
    with pytest.raises(ValueError, match="already"):
        trainer.add(runs[:1])


class Killer:
    """Counts the operations on files below `root`, and ends the job at the one with the number `fault`."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.count, self.fault = str(root), 0, -1
        for name in ("replace", "rename", "unlink", "fsync"):
            patch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*given: Any, **named: Any) -> Any:
            if self.root in str(given[0]):
                self.count += 1
                if self.count == self.fault:
                    raise Killed
            return act(*given, **named)

        return counting


def test_a_kill_at_any_operation_loses_and_doubles_nothing(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = plan(job, tiny_t5, toys, method="spp,pt-joint,slp", steps=4)
    first = runs[0].id

    def add_the_last(trainer: Trainer) -> None:
        if len(trainer.runs) < len(runs):  # a kill may have come after it was written down
            trainer.add(runs[2:])

    script = {1: [stop(first)], 2: [resume(first), add_the_last], 3: [stop(first)], 4: [resume(first)]}
    killer, changes = Killer(tmp_path, monkeypatch), {"checkpoint_every": 2}
    go(job, runs[:2], tmp_path / "whole", script, **changes)
    every = range(1, killer.count + 1, 7)  # all of them once take a minute
    for fault in every:
        killer.count, killer.fault, folder, known = 0, fault, tmp_path / f"cut{fault}", runs[:2]
        with pytest.raises(Killed):
            go(job, known, folder, script, **changes)
        go(job, known, folder, script, **changes)
        check_same(folder, tmp_path / "whole", runs)
        assert not list(folder.glob("stopped/*/*"))
    assert len(every) > 4


def test_what_cannot_be_done_is_refused_and_changes_nothing(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    runs = plan(job, tiny_t5, toys, method="spp,pt-joint", steps=3)
    name, other = (run.id for run in runs)
    trainer = go(job, runs, tmp_path / "run", {1: [stop(name)]})
    with pytest.raises(InputError, match="unknown run 'spp-n3-k4-s9'.*Did you mean 'spp-n3-k4-s0'"):
        trainer.stop("spp-n3-k4-s9", REASON)
    with pytest.raises(InputError, match="it has finished already"):
        trainer.stop(other, REASON)
    with pytest.raises(InputError, match="it has finished and cannot go on"):
        trainer.resume(other)
    path = stopped.path_of(tmp_path / "run", name, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    with pytest.raises(InputError, match=r"stopped/.*: a damaged checkpoint: .*put back a copy"):
        trainer.resume(name)
    path.unlink()
    with pytest.raises(InputError, match=r"stopped/.*: it is not there"):
        trainer.resume(name)
    path.write_bytes(whole)
    path.rename(stopped.path_of(tmp_path / "run", name, 2))
    trainer.results[name].step = 2
    with pytest.raises(InputError, match="holds other than the run"):
        trainer.resume(name)
    assert trainer.results[name].status == "stopped"


def test_captured_steps_are_dropped_with_a_run_that_leaves(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    dropped: list[int] = []

    class Captured:
        """Stands for the graphs of a GPU."""

        def __init__(self, trainer: Trainer) -> None:
            self.trainer = trainer

        def drop(self) -> None:
            dropped.append(self.trainer.step)

    def capture(trainer: Trainer) -> None:
        trainer.graphs = Captured(trainer)  # type: ignore[assignment]

    runs = plan(job, tiny_t5, toys, method="pt-joint", seeds="0,1", steps=3)
    go(job, runs, tmp_path / "run", {0: [capture], 2: [stop(runs[0].id)]})
    assert dropped == [2, 3]
