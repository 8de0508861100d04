"""Rows of several runs in a pass: which go together, and that each run is answered as it is when scored alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compt_fast.config.presets import PRESETS
from compt_fast.evaluation import evaluator
from compt_fast.evaluation.evaluator import Predicted, predict
from compt_fast.evaluation.passes import TOKENS, WIDE, Asked, Part, passes
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.prompts.artifact import RunPrompts
from compt_fast.runs.job import Job
from compt_fast.training.cohort import Cohort, Member
from tests.helpers import jobs

Rows = list[list[int]]
"""The lengths of the rows of each task."""


def trunk_on(device: str, joins: bool = True) -> Any:
    return SimpleNamespace(device=torch.device(device), joins=joins)


def asked_for(trunk: Any, rows: Rows, mode: str = "natural", updates: bool = False, prompt: int = 2) -> Asked:
    shape = SimpleNamespace(updates_inputs=updates, target_length=prompt)
    sets: Any = [SimpleNamespace(inputs=[[1] * length for length in own]) for own in rows]
    return Asked(trunk, RunPrompts(shape, {}), sets, mode)  # type: ignore[arg-type]


def taken(asked: Sequence[Asked], batch_size: int) -> list[list[tuple[int, int]]]:
    """Of each pass the runs, by their numbers, with how many rows of each part."""
    return [[(part.number, len(part.rows)) for part in own] for own in passes(asked, batch_size)]


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 7), st.sampled_from(["cpu", "cuda"]))
def test_every_row_is_in_a_batch_of_its_own_runs_as_if_it_were_alone(seed: int, batch_size: int, device: str) -> None:
    rng, trunk = random.Random(seed), trunk_on(device)

    def lengths_of_tasks() -> Rows:
        return [[rng.randint(1, 9) for _ in range(rng.randrange(8))] for _ in range(rng.randrange(4))]

    asked = [asked_for(trunk, lengths_of_tasks()) for _ in range(rng.randrange(7))]
    found: list[list[Part]] = [[] for _ in asked]
    most = batch_size * (1 if device == "cpu" else WIDE)
    for own in passes(iter(asked), batch_size):
        assert sum(len(part.rows) for part in own) <= most
        for part in own:
            assert part.asked is asked[part.number]
            found[part.number].append(part)
    for one, parts in zip(asked, found, strict=True):
        alone = [part for own in passes([one], batch_size) for part in own]
        mine, theirs = ([(part.tokens, part.rows) for part in each] for each in (parts, alone))
        assert sorted(mine) == sorted(theirs)
        rows = [row for part in alone for row in part.rows]
        assert sorted(rows) == [(t, i) for t, of in enumerate(one.sets) for i in range(len(of.inputs))]
        lengths = [len(one.sets[t].inputs[i]) for t, i in rows]
        assert lengths == sorted(lengths)


def test_what_is_left_of_runs_goes_together() -> None:
    trunk = trunk_on("cpu")
    runs = [asked_for(trunk, [[5] * 11]) for _ in range(3)]
    assert taken(runs, 4) == [[(0, 4)], [(0, 4)], [(0, 3)], [(1, 4)], [(1, 4)], [(1, 3)], [(2, 4)], [(2, 4)], [(2, 3)]]
    assert taken([asked_for(trunk, [[5] * 9]) for _ in range(3)], 4)[2] == [(0, 1), (1, 1), (2, 1)]
    samples = [asked_for(trunk, [[5], [4]]) for _ in range(5)]
    assert taken(samples, 4) == [[(0, 2), (1, 2)], [(2, 2), (3, 2)], [(4, 2)]]


def test_a_gpu_takes_several_batches_within_its_bounds() -> None:
    trunk = trunk_on("cuda")
    short, long = asked_for(trunk, [[5] * 48]), asked_for(trunk, [[TOKENS // 8 - 2] * 20])
    found = taken([short, short], 4)
    assert found == [[(0, 4)] * WIDE, [(0, 4)] * 4 + [(1, 4)] * 4, [(1, 4)] * WIDE]
    assert taken([long], 4) == [[(0, 4)] * 2, [(0, 4)] * 2, [(0, 4)]]
    assert taken([asked_for(trunk, [[TOKENS] * 3])], 2) == [[(0, 2)], [(0, 1)]], "a batch alone is not cut"


def test_what_differs_goes_apart() -> None:
    trunk = trunk_on("cpu")
    for other in (
        asked_for(trunk_on("cpu"), [[5]]),
        asked_for(trunk, [[5]], mode="numeric"),
        asked_for(trunk, [[5]], updates=True),
    ):
        runs = [asked_for(trunk, [[5]]), other, asked_for(trunk, [[5]])]
        assert taken(runs, 9) == [[(0, 1), (2, 1)], [(1, 1)]]
    padded = trunk_on("cuda", joins=False)
    assert taken([asked_for(padded, [[5]]) for _ in range(2)], 9) == [[(0, 1)], [(1, 1)]]


@pytest.fixture(scope="module")
def job(tiny_t5: Path, toys: list[Path]) -> Job:
    return jobs.opened(jobs.settings(tiny_t5, toys, eval_size=7))


@pytest.fixture(scope="module")
def asked(job: Job, tiny_t5: Path, toys: list[Path]) -> list[Asked]:
    """Runs of every preset, of two label modes, and of gates of each row, whose prompts answer unlike each other."""
    names = [path.stem for path in toys]
    changes: list[dict[str, Any]] = [
        {"method": ",".join(PRESETS)},
        {"method": "spp", "gates": "input", "seeds": "0,1"},
        {"method": "pt", "label_mode": "numeric"},
    ]
    runs = [run for each in changes for run in jobs.planned(job.trunk, names, jobs.settings(tiny_t5, toys, **each))]
    found = []
    for run in runs:
        cohort = Cohort(run.shape, job.trunk.embedding)
        cohort.admit(Member(run, job.data.training(run.config), jobs.drawn(run)))
        generator = torch.Generator().manual_seed(len(found))
        with torch.no_grad():
            for p in cohort.params.values():
                p.mul_(20).add_(torch.randn(p.shape, generator=generator))
        sets = [rows for rows in job.data.evaluation() if run.config.task in (None, rows.task.name)]
        found.append(Asked(job.trunk, cohort.prompts(0), sets, run.config.label_mode))
    return found


def predicted(job: Job, asked: Sequence[Asked], scoring: str) -> list[Predicted]:
    found = list(predict(job.data, iter(asked), scoring=scoring, batch_size=16))
    assert [id(one) for one, _ in found] == [id(one) for one in asked], "in order"
    return [own for _, own in found]


@pytest.mark.parametrize("scoring", ["rank", "generate"])
def test_every_method_is_answered_beside_others_as_alone(
    scoring: str, job: Job, asked: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    together, widths = [], []
    name = {"rank": "label_scores", "generate": "generate"}[scoring]
    answer = getattr(PackedTrunk, name)

    def counted(self: PackedTrunk, prompts: Any, batch: Any, *rest: Any) -> Any:
        widths.append(batch.joined)
        return answer(self, prompts, batch, *rest)

    monkeypatch.setattr(PackedTrunk, name, counted)
    together = predicted(job, asked, scoring)
    passed = len(widths)
    assert together == [predicted(job, [one], scoring)[0] for one in asked]
    assert passed < len(widths) - passed and max(len(joined) for joined in widths[:passed]) > 1
    texts = {text for own in together for of in own for text in of}
    assert len(texts) > 2, "prompts that answer unlike each other"


def test_what_is_asked_is_looked_at_as_passes_take_it(job: Job, asked: list[Asked]) -> None:
    """Prompts of a hundred runs need not be in memory at a time; a run is given as soon as it is through."""
    seen = [0]

    def one_by_one() -> Any:
        for number in range(200):
            seen[0] = number
            yield asked[0]

    first = next(predict(job.data, one_by_one(), scoring="rank", batch_size=16))
    assert first[0] is asked[0] and seen[0] < 100


def test_a_gpus_answers_are_read_while_it_works_at_the_next(
    job: Job, asked: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    class Away(SimpleNamespace):
        """A trunk that says when it is asked, and when its answers are read."""

        joins, device = False, torch.device("cuda")

    def scoring(trunk: Any, targets: Any, batch: Any, labels: Any, longest: int, update: Any) -> Any:
        number = len(said)
        said.append("asked")

        def read() -> list[str]:
            said.append("read")
            return [str(number)] * batch.rows

        return read

    monkeypatch.setitem(evaluator.SCORINGS, "made", scoring)  # type: ignore[arg-type]
    batches = SimpleNamespace(to=lambda device: SimpleNamespace(rows=2))
    monkeypatch.setattr(evaluator, "make_batch", lambda *of: batches)
    monkeypatch.setattr(evaluator, "targets_of", lambda prompts, device: None)
    one = Asked(Away(), asked[0].prompts, [SimpleNamespace(task=job.data.tasks[0].task, inputs=[[1]] * 6)], "natural")  # type: ignore
    ((_, found),) = predict(job.data, [one], scoring="made", batch_size=2)
    assert said == ["asked", "asked", "read", "asked", "read", "read"]
    assert found == [["0", "0", "1", "1", "3", "3"]]
