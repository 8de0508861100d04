"""Every axis drawn by itself."""

from __future__ import annotations

from optuna.samplers import RandomSampler

from compt_fast.search.samplers import Sampler

ENTRY = Sampler(lambda seed: RandomSampler(seed))
