"""AdamW for a cohort: every run has its own learning rates, step count, clipping and end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compt_fast.kernels import adamw


def schedule(step: Tensor, total: Tensor, warmup: Tensor) -> Tensor:
    """Share of the peak rate at `step` (0-based) of `total`: a linear rise, then a linear fall.

    It is 1 at the last step of the rise, which is the first step where there is no warm-up, and would
    be 0 one step after the last: no step is taken at a rate of 0. That is our choice. transformers'
    `get_linear_schedule_with_warmup` starts at 0 instead; this is its value at `step + 1` of
    `total + 1` with as many steps of warm-up, at least one.

    All arguments and the result are (R,) float64 tensors; `warmup` is the rise's share of the steps.
    """
    rise = (warmup * total - 1e-9).ceil().clamp(min=1)  # 0.2 * 35 is a little above 7
    up = (step + 1) / rise
    down = (total - step) / (total - rise + 1).clamp(min=1)
    return torch.where(step < rise, up, down).clamp(0, 1)


@dataclass(frozen=True)
class Hyperparameters:
    """What R runs are updated by, each (R,) float64 on the CPU, so that the bias corrections of the first steps are
    exact: `rates`, a learning rate for each parameter's name, `decay` of weights, `clip`, the largest gradient norm of
    a run, and `step`, how many were taken before this one.

    `table`, where there is one, is `tabled` on the device, and all that an update reads.
    """

    rates: dict[str, Tensor]
    decay: Tensor
    clip: Tensor
    step: Tensor
    table: Tensor | None = None

    def tabled(self) -> Tensor:
        """All of them as the update's kernels take them: (R, parameters + 4) float64 on the CPU."""
        return adamw.table_of(list(self.rates.values()), self.decay, self.clip, self.step)


class FleetAdamW:
    """Decoupled weight decay (Loshchilov and Hutter 2019) over tensors with a leading run axis R.

    A run's gradient g is clipped to `g * clip / norm` where its norm is above `clip`: to that norm and no
    less. torch's `clip_grad_norm_` divides by `norm + 1e-6`, and so clips a little further.

    The moments are tensors of the parameters' shapes and dtype, under the parameters' names.
    """

    def __init__(self, params: dict[str, Tensor]) -> None:
        self.first = {name: torch.zeros_like(p) for name, p in params.items()}
        self.second = {name: torch.zeros_like(p) for name, p in params.items()}

    @torch.no_grad()
    def step(
        self, params: dict[str, Tensor], grads: Sequence[Tensor], now: Hyperparameters, healthy: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update `params` in place from `grads`, which are in their order and used up; `now.rates` are in it too.

        A run that is not `healthy` (R, bool) or whose gradient is not finite keeps its values and moments.

        Returns the gradient norms before clipping and which runs were updated, both (R,).
        """
        first, second = ([moments[name] for name in params] for moments in (self.first, self.second))
        groups = (list(params.values()), [grad.contiguous() for grad in grads], first, second)
        if now.table is not None:
            return adamw.by_kernel(*groups, now.table, healthy)
        rates = list(now.rates.values())
        return adamw.step(*groups, rates=rates, decay=now.decay, clip=now.clip, taken=now.step, healthy=healthy)

    def select(self, indices: Tensor) -> None:
        """Keep the runs `indices` only, in that order."""
        for moments in (self.first, self.second):
            for name in moments:
                moments[name] = moments[name][indices].clone()

    def extend(self, params: dict[str, Tensor]) -> None:
        """Add moments of zero for further runs, whose parameters are `params`."""
        for moments in (self.first, self.second):
            for name in moments:
                moments[name] = torch.cat([moments[name], torch.zeros_like(params[name])])
