"""Requests that a job takes up: each once, whatever ends the job, and refused where they cannot be met."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from compt_fast.config.run import RunConfig
from compt_fast.prompts.store import PromptStore
from compt_fast.runs import requests
from compt_fast.runs.adding import Adding
from compt_fast.runs.initialisation import Initialisation
from compt_fast.runs.job import Job
from compt_fast.runs.requests import Request
from compt_fast.runs.steering import Steering
from compt_fast.training.plan import Run
from tests.helpers import jobs
from tests.training.test_control import Killed, Killer, check_same, go
from tests.training.test_loop import plan


@pytest.fixture(scope="module")
def job(tiny_t5: Path, toys: list[Path]) -> Job:
    return jobs.opened(jobs.settings(tiny_t5, toys))


def steering(job: Job, folder: Path) -> Steering:
    store = PromptStore(folder / "store")
    return Steering(folder=folder, adding=Adding(job, Initialisation(job, store, job.runs)))


def asked(folder: Path, *several: Request) -> list[str]:
    folder.mkdir()
    return [requests.ask(folder, request) for request in several]


def said(folder: Path) -> list[tuple[bool, str]]:
    return [(answer.done, answer.says) for answer in requests.answers(folder).values()]


def test_runs_are_stopped_resumed_cloned_and_added(job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    runs = plan(job, tiny_t5, toys, method="spp,pt-joint")
    first = runs[0].id
    known = list(runs)
    asked(
        tmp_path / "run",
        Request("stop", first),
        Request("resume", first),
        Request("clone", first, {"lr_source": "0.2,0.3"}),
        Request("clone", first, {"lr_source": "0.2"}),
        Request("add", flags={"method": "mst", "steps": "3"}),
    )
    trainer = go(job, known, tmp_path / "run", steering(job, tmp_path / "run"))
    more = [f"{first}-lr-source0.2", f"{first}-lr-source0.3", "mst-n1-k4-s0-steps3"]
    assert said(tmp_path / "run") == [
        (True, f"{first}: stopped before its first step, on request"),
        (True, f"{first}: goes on from step 0 as soon as there is room"),
        (True, f"added: {more[0]} and {more[1]}"),
        (False, "the job has every run that this means"),
        (True, f"added: {more[2]}"),
    ]
    assert requests.waiting(tmp_path / "run") == []
    assert [run.id for run in known] == [result.id for result in trainer.ended] == [*(run.id for run in runs), *more]
    clones: list[RunConfig] = [run.config for run in known[2:4]]
    assert [replace(config, lr_source=runs[0].config.lr_source) for config in clones] == [runs[0].config] * 2
    jobs.train(job, known, tmp_path / "plain")
    check_same(tmp_path / "run", tmp_path / "plain", known, losses=False)


def test_a_request_is_met_once_whatever_ends_the_job(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = plan(job, tiny_t5, toys, method="spp,pt-joint", steps=2)
    several = [Request("stop", runs[0].id), Request("add", flags={"seeds": "5"}), Request("stop", "nobody")]

    def fresh(name: str) -> tuple[Path, list[Run]]:
        asked(tmp_path / name, *several)
        return tmp_path / name, list(runs)

    killer = Killer(tmp_path, monkeypatch)
    folder, known = fresh("whole")
    killer.count = 0
    go(job, known, folder, steering(job, folder))
    for fault in range(1, killer.count + 1, 8):
        folder, known = fresh(f"cut{fault}")
        killer.count, killer.fault = 0, fault
        with pytest.raises(Killed):
            go(job, known, folder, steering(job, folder))
        go(job, known, folder, steering(job, folder))
        (stopped, added, refused) = said(folder)
        assert stopped[0] and not refused[0]
        assert added == (True, "added: spp-n3-k4-s5") or added == (False, "the job has every run that this means")
        assert len(known) == 3 and requests.waiting(folder) == []
        check_same(folder, tmp_path / "whole", known[1:])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"do": "stop", "run": "spp-n3-k4-s1"}, "unknown run 'spp-n3-k4-s1'. Did you mean 'spp-n3-k4-s0'?"),
        ({"do": "start", "run": ""}, "unknown request 'start'."),
        ({"do": "clone", "run": "spp-n3-k4-s0"}, "clone: name at least one flag of runs"),
        ({"do": "clone", "run": "spp-n3-k4-s0", "flags": {"rate": "0.1"}}, "unknown flag of runs 'rate'."),
        ({"do": "clone", "run": "spp-n3-k4-s0", "flags": {"lr_source": "fast"}}, "--lr-source takes a finite number"),
        ({"do": "clone", "run": "spp-n3-k4-s0", "flags": {"prompt_length": "600"}}, "exceed the trunk's input"),
        ({"do": "add", "flags": {"method": "pi"}}, "and a job that is going trains none first"),
        ({"do": "add", "flags": {"method": "spq"}}, "unknown value of --method"),
        ({"undo": "stop"}, "undo"),
        ([], "not a request: a JSON list where an object"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_what_cannot_be_met_is_refused(content: object, why: str, job: Job, tmp_path: Path) -> None:
    (tmp_path / requests.FOLDER).mkdir()
    (tmp_path / requests.FOLDER / "1.json").write_text(json.dumps(content))
    go(job, [replace(run, config=replace(run.config, steps=1)) for run in job.runs], tmp_path, steering(job, tmp_path))
    ((done, says),) = said(tmp_path)
    assert not done and why in says
    assert requests.waiting(tmp_path) == []
