"""Jobs that are searches: their trials are the runs that a plain job would train, and no kill changes them."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from compt_fast.config.flags import read_flags
from compt_fast.runs.job import Job, recorded_identity
from compt_fast.runs.pipeline import conduct, prepare
from compt_fast.search.control import JOURNAL, Search
from compt_fast.search.record import Record
from compt_fast.search.trials import FAILED, FINISHED, PRUNED, best_of
from compt_fast.train import main
from compt_fast.training.loop import Trainer
from compt_fast.training.plan import planned_as
from compt_fast.utils.errors import InputError
from tests.helpers import jobs

SPACE = """
lr_source = {low = 0.05, high = 0.5, log = true}
prompt_length = [2, 3]
method = ["spp", "pt-joint"]

[when.method.spp]
sources = [1, 2]
"""
FLAGS = {
    "method": None,
    "prompt_length": None,
    "steps": 3,
    "runs_at_once": 2,
    "checkpoint_every": 2,
    "trials": 5,
    "confirm": 2,
}


@dataclass
class Found:
    """A search that was conducted: its exit code, job, and record."""

    folder: Path
    code: int
    job: Job
    record: Record


def searched(top: Path, chosen: dict[str, str], name: str, space: str = SPACE) -> Found:
    """Begin a search in the folder `name` of `top`, or go on with it."""
    path, folder = top / "space.toml", top / name
    path.write_text(space)
    begun = (folder / "config.json").is_file()
    settings = read_flags(
        {} if begun else chosen | {"search": str(path)}, str(folder / "config.json") if begun else None
    )
    pipeline = prepare(folder, settings, writing=True)
    code = conduct(pipeline, ["compt-fast", "train"], Console(quiet=True))
    record = Record.read(folder)
    assert record is not None
    return Found(folder, code, pipeline.stage_two.job, record)


@pytest.fixture
def go(tiny_t5: Path, toys: list[Path], tmp_path: Path) -> Callable[..., Found]:
    """Begins a search of two small tasks in a folder, or goes on with it."""
    return lambda name, space=SPACE, **changes: searched(
        tmp_path, jobs.settings(tiny_t5, toys[:2], **(FLAGS | changes)), name, space
    )


@pytest.fixture(scope="module")
def plain(tiny_t5: Path, toys: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Found:
    """A search that nobody disturbed."""
    return searched(tmp_path_factory.mktemp("plain"), jobs.settings(tiny_t5, toys[:2], **FLAGS), "plain")


def timeless(record: Record) -> Any:
    """All of a record but how long it took."""
    content = record.to_json()
    return content | {"trials": [trial | {"seconds": None} for trial in content["trials"]]}


def test_trials_are_the_runs_of_a_plain_job(plain: Found, tmp_path: Path) -> None:
    found = plain
    assert found.code == 0 and [trial.state for trial in found.record.trials] == [FINISHED] * 5
    identity = recorded_identity(found.folder)
    runs = [
        planned_as(name, config, tasks=2, d_model=found.job.trunk.d_model) for name, config in identity.runs.items()
    ]
    jobs.train(found.job, runs, tmp_path / "plain", search=None, runs_at_once=12)
    mine, theirs = jobs.prompts(found.folder), jobs.prompts(tmp_path / "plain")
    assert mine.keys() == theirs.keys() == identity.runs.keys()
    assert all(torch.equal(mine[run][name], t) for run, tensors in theirs.items() for name, t in tensors.items())
    entries = {entry["id"]: entry for entry in jobs.results(found.folder)["runs"]}
    for entry in jobs.results(tmp_path / "plain")["runs"]:
        assert entries[entry["id"]]["tasks"] == entry["tasks"]
    for trial in found.record.trials:  # the test rows have no say
        assert trial.value == entries[trial.runs[0]]["development"]["average"]
        config = identity.runs[trial.runs[0]]
        assert (config.method, config.prompt_length) == (trial.point["method"], trial.point["prompt_length"])
    best = best_of(found.record.trials)
    assert best is not None and found.record.best == best.number
    confirmed = [identity.runs[run] for run in found.record.confirming]
    assert [config.seed for config in confirmed] == [1, 2]
    assert confirmed[0].lr_source == identity.runs[best.runs[0]].lr_source
    assert len((found.folder / JOURNAL).read_text().splitlines()) > 10


class Killed(BaseException):
    """Ends a job as SIGKILL would, but for what `finally` blocks remove."""


@pytest.mark.parametrize(
    ("where", "name", "when"),
    [
        # Runs are recorded, and no checkpoint knows of their trial, or of the best one's fresh seeds.
        (Trainer, "save", lambda trainer: len(trainer.runs) == 4),
        (Trainer, "save", lambda trainer: len(trainer.runs) == 7),
        (Search, "kept", lambda search: search.record.confirming),  # no file of the search knows of them
        (Trainer, "train_step", lambda trainer: trainer.step == 5),
    ],
)
def test_a_search_that_is_killed_goes_on_to_the_same_trials(
    where: Any,
    name: str,
    when: Callable[[Any], bool],
    plain: Found,
    go: Callable[..., Found],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = getattr(where, name)

    def killed(self: Any, *rest: Any) -> Any:
        if when(self):
            raise Killed
        return own(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, killed)
        with pytest.raises(Killed):
            go("cut")
    cut = go("cut")
    assert timeless(cut.record) == timeless(plain.record)
    mine, theirs = jobs.prompts(cut.folder), jobs.prompts(plain.folder)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[run][name], t) for run, tensors in theirs.items() for name, t in tensors.items())
    assert {entry["id"]: entry for entry in jobs.results(cut.folder)["runs"]} == {
        entry["id"]: entry for entry in jobs.results(plain.folder)["runs"]
    }


HALVING = {"method": "spp", "trials": 9, "steps": 6, "rungs": "1,3", "halve": "async", "sampler": "random"}


def test_halving_stops_trials_and_changes_no_bit_of_those_that_go_on(
    go: Callable[..., Found], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a kill; the best one's fresh seeds are not compared with anybody."""
    space = "lr_source = {low = 0.05, high = 0.5, log = true}"
    found = go("search", space, **HALVING)
    states = Counter(trial.state for trial in found.record.trials)
    assert states[PRUNED] >= 4 and states[FINISHED] >= 1 and states.total() == 9
    whole = {trial.runs[0] for trial in found.record.trials if trial.state == FINISHED}
    assert all(trial.reports.keys() == {"1", "3"} for trial in found.record.trials if trial.state == FINISHED)
    assert all("1" in trial.reports and "place" in trial.reason for trial in found.record.trials if trial.value is None)
    identity = recorded_identity(found.folder)
    kept = {*whole, *found.record.confirming}
    assert len(found.record.confirming) == 2
    sizes = {"tasks": 2, "d_model": found.job.trunk.d_model}
    runs = [planned_as(name, identity.runs[name], **sizes) for name in sorted(kept)]
    jobs.train(found.job, runs, tmp_path / "plain", search=None, halve=None)
    mine, theirs = jobs.prompts(found.folder), jobs.prompts(tmp_path / "plain")
    assert theirs.keys() == kept <= mine.keys()
    assert all(torch.equal(mine[run][name], t) for run, tensors in theirs.items() for name, t in tensors.items())
    calls, own = iter(range(11)), Trainer.train_step

    def killed(self: Trainer, monitor: Any) -> Any:
        if next(calls, None) is None:
            raise Killed
        return own(self, monitor)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", killed)
        with pytest.raises(Killed):
            go("cut", space, **HALVING)
    assert timeless(go("cut", space).record) == timeless(found.record)


def test_a_setting_that_is_asked_for_again_is_trained_once(go: Callable[..., Found]) -> None:
    found = go("search", "lr_source = [0.1, 0.2]", method="spp", trials=6, seeds="3,4", confirm=0)
    assert len(recorded_identity(found.folder).runs) == 4 and found.record.confirming == []
    results = {entry["id"]: entry["development"]["average"] for entry in jobs.results(found.folder)["runs"]}
    for trial in found.record.trials:
        assert len(trial.runs) == 2
        assert trial.value == statistics.fmean(results[run] for run in trial.runs)


def test_a_search_can_grow(go: Callable[..., Found]) -> None:
    """What was tried stays, and what is tried after follows from it; the best of all has fresh seeds of its own."""
    first = go("search", trials=3, confirm=1)
    folder, line = str(first.folder), ["--resume", str(first.folder)]
    assert main([*line, "--trials=6"]) == 0
    record = Record.read(Path(folder))
    assert record is not None and len(record.trials) == 6 and record.trials[:3] == first.record.trials
    assert recorded_identity(Path(folder)).settings.trials == 6
    best = best_of(record.trials)
    assert best is not None and record.best == best.number
    assert len(record.confirming) == 1 and record.confirming[0].endswith(f"-t{best.number}")


def test_a_trial_that_cannot_end_fails_by_itself(go: Callable[..., Found], monkeypatch: pytest.MonkeyPatch) -> None:
    jobs.poison(monkeypatch, "spp-n1-k4-s0-t0", "source_tokens", float("nan"))
    found = go("search", "lr_source = [0.1, 0.2, 0.4]", method="spp", sources=1, sampler="grid", confirm=1)
    assert [trial.state for trial in found.record.trials] == [FAILED, FINISHED, FINISHED]
    assert "not finite" in found.record.trials[0].reason and found.code == 0


def test_prompts_that_trials_start_from_are_trained_first(go: Callable[..., Found]) -> None:
    space = 'method = ["spp", "sip"]\nlr_private = [0.1, 0.2]'
    small = {"prompt_length": 2, "source_steps": 1, "source_examples": 4, "trials": None}
    found = go("search", space, sampler="grid", confirm=0, **small)
    assert {trial.state for trial in found.record.trials} == {FINISHED} and len(found.record.trials) == 4
    assert (found.folder / "sources-m2" / "results.json").is_file()


@pytest.mark.parametrize(
    ("space", "changes", "message"),
    [
        ("lr_sorce = [0.1]", {}, "unknown flag in {space}: 'lr_sorce'"),
        ("prompt_length = [2, 2000]", {}, "{space}: with prompt_length 2000: spp-n3-k4-s0-t1: a target prompt of 2000"),
        ("lr_source = [0.1]", {"lr_private": "0.1,0.2"}, "--lr-private 0.1,0.2: beside --search a flag has one value"),
        ("lr_source = {low = 0.1, high = 0.2}", {"sampler": "grid"}, "--sampler grid: the range from 0.1 to 0.2"),
        ("lr_source = [0.1]", {"source_tasks": "toy_a"}, "--source-tasks has no meaning"),
        ("lr_source = [0.1, 0.2]", {"halve": "async", "seeds": "0,1"}, "--halve compares run by run, and a"),
        ("lr_source = [0.1]", {"halve": "async"}, "--halve compares runs of the same task"),
        ("shots = [4, 400]", {}, "toy_a: 400 shots, but the training split has"),
        ("shots = [48]", {"sampling": "random"}, "--search needs training rows of toy_a beyond the shots"),
    ],
)
def test_what_is_wrong_ends_it_before_it_begins(
    space: str, changes: dict[str, Any], message: str, go: Callable[..., Found], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as refused:
        go("search", space, **({"method": "spp", "shots": None if "shots" in space else 4} | changes))
    assert message.format(space=tmp_path / "space.toml") in str(refused.value)
    assert not (tmp_path / "search").exists()


def test_a_search_goes_on_as_it_began(go: Callable[..., Found], capsys: pytest.CaptureFixture[str]) -> None:
    """In the space that it began with, whatever its file says by now; another sampler is another job."""
    folder = go("search", "lr_source = [0.1, 0.2]", method="spp", sampler="grid", confirm=0).folder
    again = go("search", "lr_source = [0.3, 0.4]")
    assert again.record.space.content == {"lr_source": [0.1, 0.2]} and len(again.record.trials) == 2
    assert "space.toml has changed since the search began" in capsys.readouterr().err
    said = jobs.error_of(capsys, main, ["--resume", str(folder), "--sampler", "random"])
    assert "its job began with --sampler grid, not with --sampler random" in said


def test_flags_of_a_search_need_one(line: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    said = jobs.error_of(capsys, main, line(Path("nowhere"), trials=5))
    assert "--trials has no meaning without --search" in said


def test_optuna_is_needed(go: Callable[..., Found], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compt_fast.runs.searching.find_spec", lambda name: None)
    with pytest.raises(InputError, match="--search needs the package optuna: pip install optuna"):
        go("search")


def test_the_record_is_written_as_json(go: Callable[..., Found]) -> None:
    found = go("search", "lr_source = [0.1]", method="spp", trials=1, confirm=0)
    content = json.loads((found.folder / "search.json").read_text())
    assert content["space"] == {"lr_source": [0.1]} and content["fixed"]["shots"] == 4
    assert content["best"] == 0 and content["trials"][0]["seconds"] > 0
