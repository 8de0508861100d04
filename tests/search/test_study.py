"""Studies: what is asked next follows from the seed and from what was told, whoever remembers it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from compt_fast.config.choices import SAMPLER_NAMES
from compt_fast.search.space import Point, Space, space_of
from compt_fast.search.study import NAME, Study
from compt_fast.search.trials import FAILED, FINISHED, PRUNED, Trial, best_of

TABLE = {
    "method": ["spp", "pt"],
    "lr_private": [0.1, 0.3, 1.0],
    "when": {"method": {"spp": {"sources": [2, 4], "lr_source": {"low": 0.1, "high": 0.9, "step": 0.4}}}},
}


@pytest.fixture
def space() -> Space:
    return space_of(TABLE, "t", {"seeds": [0]})


def value_of(point: Point) -> float:
    return 10 * point["lr_private"] + (point["method"] == "spp") * 5


def asked(study: Study, known: list[Trial], count: int) -> list[Trial]:
    """The next trials of a study, three at a time: one of three is pruned, and one in seven fails."""
    trials = list(known)
    while len(trials) < count:
        batch = []
        for _ in range(3):
            point = study.ask()
            assert point is not None
            batch.append(Trial(len(trials), point, [f"run-t{len(trials)}"]))
            trials.append(batch[-1])
            study.note(batch[-1])
        for trial in batch:
            ended(trial)
            study.tell(trial)
    return trials


def ended(trial: Trial) -> None:
    trial.state = FAILED if trial.number % 7 == 6 else PRUNED if trial.number % 3 == 2 else FINISHED
    trial.value = value_of(trial.point) if trial.state == FINISHED else None
    trial.reports = {"4": value_of(trial.point) / 2}
    trial.seconds = 1.5 * trial.number


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_a_study_made_anew_asks_for_the_same(sampler: str, space: Space) -> None:
    whole = asked(Study(space, sampler, 5), [], 18)
    other = asked(Study(space, sampler, 6), [], 18)
    assert [t.point for t in whole] != [t.point for t in other]
    kept = [Trial.from_json(t.to_json(), "t") for t in whole[:12]]
    assert asked(Study(space, sampler, 5, kept), kept, 18) == whole


def test_trials_that_go_on_are_known(space: Space) -> None:
    """Of three trials that were asked for two have ended: what is asked next is as if nobody had gone."""
    study = Study(space, "tpe", 0)
    trials = asked(study, [], 15)
    going = []
    for _ in range(3):
        point = study.ask()
        assert point is not None
        going.append(Trial(len(trials) + len(going), point, []))
        study.note(going[-1])
    ended(going[1])
    study.tell(going[1])
    again = Study(space, "tpe", 0, [*trials, *going])
    assert study.ask() == again.ask()


def test_the_grid_ends(space: Space) -> None:
    study = Study(space, "grid", 0)
    assert study.most == 3 * (2 * 3) + 3
    points = [study.ask() for _ in range(21)]
    assert study.ask() is None
    assert len({str(point) for point in points}) == 21


def test_a_sampler_learns(space: Space) -> None:
    """Of 60 trials the last 20 of TPE are better than those of random."""
    means: dict[str, float] = {}
    for sampler in ("tpe", "random"):
        study, values = Study(space, sampler, 0), []
        for number in range(60):
            point: Any = study.ask()
            values.append(value_of(point))
            study.tell(Trial(number, point, [], FINISHED, values[-1]))
        means[sampler] = sum(values[-20:]) / 20
    assert means["tpe"] > means["random"] + 2


def test_the_journal_is_optunas(space: Space, tmp_path: Path) -> None:
    study = Study(space, "tpe", 0)
    trials = asked(study, [], 9)
    path = tmp_path / "study.log"
    path.write_text(study.journal)
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    read = optuna.load_study(study_name=NAME, storage=optuna.storages.JournalStorage(backend))
    assert [t.params for t in read.trials] == [t.point for t in trials]
    assert [t.state.name for t in read.trials] == [
        {"finished": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}[t.state] for t in trials
    ]
    best = best_of(trials)
    assert best is not None and read.best_trial.number == best.number and read.best_value == best.value
    assert read.best_trial.user_attrs["runs"] == best.runs and read.best_trial.user_attrs["seconds"] == best.seconds
