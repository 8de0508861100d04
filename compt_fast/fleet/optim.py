"""AdamW for a cohort: every run has its own learning rates, step count, clipping and end."""

from __future__ import annotations

import torch
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def schedule(step: Tensor, total: Tensor, warmup: Tensor) -> Tensor:
    """Share of the peak rate at `step` (0-based) of `total`: a linear rise, then a linear fall.

    It is 1 at the last step of the rise and would be 0 one step after the last. All arguments and
    the result are (R,) float64 tensors; `warmup` is the rise's share of the steps.
    """
    rise = (warmup * total - 1e-9).ceil()  # 0.2 * 35 is a little above 7
    up = (step + 1) / rise.clamp(min=1)
    down = (total - step) / (total - rise + 1).clamp(min=1)
    return torch.where(step < rise, up, down).clamp(0, 1)


class FleetAdamW:
    """Decoupled weight decay (Loshchilov and Hutter 2019) over tensors with a leading run axis R.

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
        the bias corrections of the first steps are exact. A run that is not `healthy` (R, bool) or
        whose gradient is not finite keeps its values and moments.

        Returns the gradient norms before clipping and which runs were updated, both (R,).
        """
        grads = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in params.items()}
        squares = [grad.flatten(1).square().sum(1) for grad in grads.values()]
        norm = torch.stack(squares).sum(0).sqrt()
        updated = healthy & norm.isfinite()
        scale = torch.where(updated, clip / norm.clamp(min=clip), 0.0)
        correction1 = 1 - BETA1 ** (taken + 1)
        correction2 = 1 - BETA2 ** (taken + 1)
        keep1 = torch.full_like(taken, BETA1).where(updated, 1.0)
        keep2 = torch.full_like(taken, BETA2).where(updated, 1.0)
        for name, p in params.items():
            grad = torch.where(_wide(updated, p).bool(), grads[name], 0.0) * _wide(scale, p)
            first, second = self.first[name], self.second[name]
            first.mul_(_wide(keep1, p)).add_(grad, alpha=1 - BETA1)
            second.mul_(_wide(keep2, p)).addcmul_(grad, grad, value=1 - BETA2)
            rate = rates[name].where(updated, 0.0)
            p.mul_(_wide(1 - rate * decay, p))
            denominator = (second / _wide(correction2, p)).sqrt_().add_(EPSILON)
            p.sub_(_wide(rate / correction1, p) * first / denominator)
            p.grad = None
        return norm, updated

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


def _wide(value: Tensor, p: Tensor) -> Tensor:
    """One number a run (R,), in the dtype of `p` (R, ...) and broadcast over each run's values."""
    return value.to(p.dtype).view(-1, *([1] * (p.dim() - 1)))
