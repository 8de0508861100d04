"""The command `steer`, beside a job that is going and where none is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from compt_fast import steer, train
from compt_fast.prompts.store import PromptStore
from compt_fast.runs import requests
from compt_fast.runs.adding import Adding
from compt_fast.runs.initialisation import Initialisation
from compt_fast.runs.job import record_added
from compt_fast.runs.loaded import load_job
from compt_fast.runs.steering import of_the_job
from compt_fast.training.monitor import Monitor
from tests.helpers import jobs
from tests.helpers.jobs import Line, error_of

RUNS = ["pt-joint-k4-s0", "pt-joint-k4-s1"]


@pytest.fixture
def going(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The run folder of a job that takes its time, and ends once the test has."""
    step, over = Monitor.step, threading.Event()

    def slow(self: Monitor, *rest: Any, **named: Any) -> None:
        step(self, *rest, **named)
        assert self.offset  # what a reader of the curve waits for is on the disk
        if not over.is_set():
            time.sleep(0.02)

    monkeypatch.setattr(Monitor, "step", slow)
    folder = tmp_path / "run"
    flags = {"method": "pt-joint", "seeds": "0,1", "steps": 3000, "runs_at_once": 1, "budget": "30s"}
    codes: list[int] = []
    job = threading.Thread(target=lambda: codes.append(train.main(line(folder, **flags))))
    job.start()
    while not requests.curves(folder):
        time.sleep(0.05)
    yield folder
    over.set()
    for name in [*RUNS, f"{RUNS[0]}-lr-private0.01"]:
        steer.main([str(folder), "stop", name])
    job.join()
    assert codes == [0]


def test_a_job_is_steered(going: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def says(*argv: str) -> str:
        """What the command printed; of what the job prints in its thread some may stand there too."""
        capsys.readouterr()
        assert steer.main([str(going), *argv]) == 0
        return capsys.readouterr().out

    table = says("list")
    assert "training" in table and "waiting" in table and f"a job is going in {going}" in table
    assert f"{RUNS[0]}: stopped after " in says("stop", RUNS[0])
    (stopped, other) = requests.states(going)
    assert (stopped.state, other.state) in [("stopped", "training"), ("stopped", "waiting")]
    assert f"added: {RUNS[0]}-lr-private0.01\n" in says("clone", RUNS[0], "--lr-private=0.01")
    assert f"{RUNS[0]}: goes on from step {stopped.steps} as soon as there is room\n" in says("resume", RUNS[0])
    assert "waits to go on" in says("list")
    assert f"{RUNS[1]}: it goes on already" in error_of(capsys, steer.main, [str(going), "resume", RUNS[1]])
    assert "Did you mean 'pt-joint-k4-s1'" in error_of(capsys, steer.main, [str(going), "stop", "pt-joint-k4-s2"])
    assert len(requests.answers(going)) == 4, "an id that is not known never reaches the job"


def test_where_no_job_is_going(line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert train.main(line(folder, method="pt-joint", steps=2)) == 0
    message = error_of(capsys, steer.main, [str(folder), "clone", RUNS[0], "--seeds=3"])
    assert f"{folder}: no job is going there that could take this up; python -m compt_fast.train --resume" in message
    for do in ("stop", "resume"):
        assert (
            error_of(capsys, steer.main, [str(folder), do, RUNS[0]]) == f"error: {RUNS[0]}: it has finished already\n"
        )
    assert not list(folder.glob("requests/*"))
    assert steer.main([str(folder), "list"]) == 0
    assert f"no job is going in {folder}" in capsys.readouterr().out
    assert "no run folder" in error_of(capsys, steer.main, [str(tmp_path), "list"])
    with pytest.raises(SystemExit) as refused:
        steer.main([str(folder), "clone", RUNS[0], "--lr-surce=1"])
    assert refused.value.code == 2 and "Did you mean '--lr-source'" in capsys.readouterr().err


def test_a_job_that_goes_on_knows_what_was_added(line: Line, tmp_path: Path) -> None:
    """Also where it was killed between writing a run down and taking it in."""
    folder = tmp_path / "run"
    given = {"method": "pt-joint", "steps": 2}
    assert train.main(line(folder, **given)) == 0
    job = load_job(folder, {}).job
    sweep = of_the_job(job.settings, requests.Request("add", flags={"lr_private": "0.5"}))
    adding = Adding(job, Initialisation(job, PromptStore(folder / "store"), job.runs))
    record_added(folder, adding.plan(sweep, ["lr_private"], job.runs))
    assert train.main([f"--resume={folder}"]) == 0
    assert train.main([f"--resume={folder}", "--seeds=0,1"]) == 0
    added = f"{RUNS[0]}-lr-private0.5"
    ended = {entry["id"]: entry["status"] for entry in jobs.results(folder)["runs"]}
    assert ended == dict.fromkeys([*RUNS, added], "finished")
    assert train.main(line(tmp_path / "plain", **given | {"lr_private": 0.5})) == 0
    (own,) = jobs.prompts(tmp_path / "plain").values()
    assert all(torch.equal(own[name], tensor) for name, tensor in jobs.prompts(folder)[added].items())


def test_curves_leave_a_line_that_is_being_written(tmp_path: Path) -> None:
    assert requests.curves(tmp_path) == {}
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"run": "a", "step": 1}\n{"run": "b", "step": 1, "loss": 0.5}\n{"run": "a", "st')
    assert {name: len(records) for name, records in requests.curves(tmp_path).items()} == {"a": 1, "b": 1}
