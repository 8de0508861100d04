"""AdamW for a cohort: every run has its own learning rates, step count, clipping and end."""

from __future__ import annotations

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
        self,
        params: dict[str, Tensor],
        *,
        rates: dict[str, Tensor],
        decay: Tensor,
        clip: Tensor,
        taken: Tensor,
        healthy: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Update `params` in place from their `.grad`, which is freed.

        `rates` holds a (R,) learning rate for each parameter's name; `decay`, `clip` (largest
        gradient norm of a run) and `taken` (steps taken before this one) are (R,), float64 so that
        the bias corrections of the first steps are exact, and on the CPU, from where they go to the
        device in one copy. A run that is not `healthy` (R, bool) or whose gradient is not finite
        keeps its values and moments.

        Returns the gradient norms before clipping and which runs were updated, both (R,).
        """
        found = adamw.step(
            list(params.values()),
            [torch.zeros_like(p) if p.grad is None else p.grad for p in params.values()],
            [self.first[name] for name in params],
            [self.second[name] for name in params],
            rates=[rates[name] for name in params],
            decay=decay,
            clip=clip,
            taken=taken,
            healthy=healthy,
        )
        for p in params.values():
            p.grad = None
        return found

    @torch.no_grad()
    def apply(
        self, params: dict[str, Tensor], grads: list[Tensor], table: Tensor, healthy: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`step` by its kernels, of `grads` in the parameters' order and numbers that are on the device already:
        `table` as `adamw.table_of` makes it, and `healthy`.
        """
        grads = [grad.contiguous() for grad in grads]
        first, second = ([moments[name] for name in params] for moments in (self.first, self.second))
        return adamw.by_kernel(list(params.values()), grads, first, second, table, healthy)

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
