"""A small part of the campaign of kills, and that the campaign notices what it is for."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from compt_fast.runs import job
from tools import kills
from tools.kills import Fault, Victim


@pytest.fixture(scope="module", params=list(kills.JOBS))
def victim(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "open_trunk", job.open_trunk)  # as it was, afterwards
        kills.prepare()
        yield Victim(request.param, tmp_path_factory.mktemp("kills"))


def test_killed_jobs_go_on_with_the_same_bits(victim: Victim) -> None:
    chance = random.Random(victim.milliseconds)
    somewhere = [
        *(
            [fault]
            for fault in chance.sample([Fault("operation", at) for at in range(1, victim.counts["operation"])], 3)
        ),
        [Fault("torn", chance.randint(1, victim.counts["torn"]))],
        *(plan for plan, _ in zip(kills.anywhere(victim, chance), range(2), strict=False)),
    ]
    for faults in somewhere:
        assert victim.check(faults) == "", faults


def test_a_job_that_came_to_something_else_is_noticed(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(victim, "whole", victim.whole | {"results.json": [], "lost": None})
    assert victim.check([]) == "other than in a job that nobody killed: lost, results.json"
