"""Every combination of listed values and steps of ranges once, in an order that is drawn."""

from __future__ import annotations

from optuna.samplers import RandomSampler

from compt_fast.search.samplers import Sampler

# Optuna's GridSampler knows no conditions: it would try a point once for each value of what the point has no use for.
ENTRY = Sampler(lambda seed: RandomSampler(seed), points=lambda space, seed: space.grid(seed))
