"""Tree-structured Parzen estimator: what good trials have in common, and bad ones have not."""

from __future__ import annotations

import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler

from compt_fast.search.samplers import Sampler


def _tpe(seed: int) -> BaseSampler:
    """Joint over the axes of each condition (`group`), and away from trials that have not ended (`constant_liar`), as
    a batch of trials is asked for at a time.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # group, since Optuna 2.8
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


ENTRY = Sampler(_tpe)
