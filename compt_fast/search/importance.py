"""How much of the differences between trials each axis of a space explains."""

from __future__ import annotations

import optuna
from optuna.importance import FanovaImportanceEvaluator

from compt_fast.search.record import Record
from compt_fast.search.study import Study
from compt_fast.search.trials import FINISHED, Trial

LEAST = 8  # trials that an importance is worked out from
_TREES, _SEED = 32, 0  # of fANOVA's forest


def importances(record: Record) -> dict[str, float]:
    """The share (0 to 1) of the variance of the values that an axis alone, or with others, explains, by name, the
    highest first: fANOVA (Hutter et al. 2014, as Optuna has it) over the finished trials.

    That of an axis under a condition is among the trials that chose it. An axis that never varied, or that too few
    trials chose, has none.
    """
    finished = [trial for trial in record.trials if trial.state == FINISHED]
    alike: dict[tuple[int, ...], list[str]] = {}  # axes by the trials that chose them
    for axis in record.space.every_axis():
        among = [trial for trial in finished if axis.name in trial.point]
        if len(among) >= LEAST and len({trial.point[axis.name] for trial in among}) > 1:
            alike.setdefault(tuple(trial.number for trial in among), []).append(axis.name)
    found: dict[str, float] = {}
    for numbers, names in alike.items():
        shares = _fanova(record, [record.trials[number] for number in numbers])
        found |= {name: shares[name] for name in names}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _fanova(record: Record, trials: list[Trial]) -> dict[str, float]:
    """The importance of every axis that all of these trials chose."""
    study = Study(record.space, "random", 0, [_renumbered(trial, n) for n, trial in enumerate(trials)])
    names = [name for name in trials[0].point if all(name in trial.point for trial in trials)]
    evaluator = FanovaImportanceEvaluator(n_trees=_TREES, seed=_SEED)
    return optuna.importance.get_param_importances(study.optuna, evaluator=evaluator, params=names)


def _renumbered(trial: Trial, number: int) -> Trial:
    return Trial(number, trial.point, trial.runs, trial.state, trial.value, seconds=trial.seconds)
