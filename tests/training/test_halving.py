"""Halving: who goes on at a rung, and that a run that goes on to its end is what it would have been untouched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compt_fast.config.flags import read_flags
from compt_fast.runs.job import Job
from compt_fast.training.halving import check_halving, promote, rungs_of
from compt_fast.utils.errors import InputError
from tests.helpers import jobs
from tests.training.test_loop import plan


def settings(**flags: str) -> Any:
    return read_flags({"halve": "async"} | flags, None)


def test_rungs() -> None:
    assert rungs_of(settings(), 270) == [10, 30, 90]
    assert rungs_of(settings(), 100) == [4, 12, 34]
    assert rungs_of(settings(halve_factor="2", least_steps="10"), 100) == [10, 20, 40, 80]
    assert rungs_of(settings(halve_factor="2", least_steps="10"), 80) == [10, 20, 40]
    assert rungs_of(settings(rungs="50,7"), 50) == [7]
    assert rungs_of(settings(least_steps="9"), 5) == []
    assert rungs_of(settings(), 2) == [1]


def climbed(quality: list[int], order: list[int], factor: int, late: bool) -> tuple[dict[str, int], int]:
    """How many rungs each run is let past where runs of this `quality` come one after another in this `order`, and the
    most of them that were counted at once; three rungs.
    """
    group = [str(i) for i in range(len(quality))]
    scores: dict[str, list[float]] = {}
    passed: dict[str, int] = {}
    queue = [str(i) for i in order]
    while queue:
        name = queue.pop(0)
        if len(scores.get(name, ())) < 3:
            scores.setdefault(name, []).append(float(quality[int(name)]))
        queue += [name for _, name in promote(group, scores, passed, set(), factor, late)]
    return passed, len(scores)


@given(st.permutations(list(range(9))), st.permutations(list(range(9))), st.sampled_from([2, 3]))
def test_synchronously_the_best_go_on_whatever_their_order(quality: list[int], order: list[int], factor: int) -> None:
    passed, _ = climbed(quality, order, factor, late=True)
    ranked = sorted(range(9), key=lambda i: -quality[i])
    left = 9
    for rung in (1, 2, 3):
        left = max(1, left // factor)
        assert {name for name, count in passed.items() if count >= rung} == {str(i) for i in ranked[:left]}


@given(st.permutations(list(range(9))), st.permutations(list(range(9))), st.sampled_from([2, 3]))
def test_asynchronously_the_best_always_goes_on_and_few_beside_it(
    quality: list[int], order: list[int], factor: int
) -> None:
    passed, _ = climbed(quality, order, factor, late=False)
    synchronous, _ = climbed(quality, order, factor, late=True)
    assert passed[str(max(range(9), key=quality.__getitem__))] == 3
    assert all(passed.get(name, 0) >= 1 for name, count in synchronous.items() if count >= 1)


@pytest.fixture(scope="module")
def job(tiny_t5: Path, toys: list[Path]) -> Job:
    return jobs.opened(jobs.settings(tiny_t5, toys))


@pytest.mark.parametrize("changes", [{}, {"method": "pt", "seeds": "0"}], ids=["one", "tasks apart"])
def test_what_halving_means_nothing_for_is_refused(
    changes: dict[str, str], job: Job, tiny_t5: Path, toys: list[Path]
) -> None:
    runs = plan(job, tiny_t5, toys, **changes)
    with pytest.raises(InputError, match="--halve compares runs of the same task"):
        check_halving(settings(), runs, {run.id: 9 for run in runs})


def test_rungs_that_come_too_late_are_refused(job: Job, tiny_t5: Path, toys: list[Path]) -> None:
    runs = plan(job, tiny_t5, toys, seeds="0,1")
    steps = {run.id: 9 for run in runs}
    check_halving(settings(least_steps="8"), runs, steps)
    with pytest.raises(InputError, match=r"spp-n3-k4-s0: --halve has no rung before the end of its 9 steps"):
        check_halving(settings(least_steps="9"), runs, steps)
    with pytest.raises(InputError, match="exclude each other"):
        check_halving(settings(least_steps="3", rungs="2"), runs, steps)
    with pytest.raises(InputError, match="--rungs is of --halve"):
        check_halving(replace(settings(rungs="3"), halve=None), runs, steps)
