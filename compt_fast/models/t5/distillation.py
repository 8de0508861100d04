"""What label tokens learn from their teachers, with its gradient by hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compt_fast.models.t5.head import chunks
from compt_fast.ops.linear import FrozenLinear


@dataclass(frozen=True)
class Taught:
    """Label tokens that have teachers: `at` (k,) int64 on the CPU, ascending, are their places among all; `states`
    (k, d) what the head reads under their teachers; weight and temperature (k,) fp32.
    """

    at: Tensor
    states: Tensor
    weight: Tensor
    temperature: Tensor

    def within(self, first: int, end: int) -> Taught:
        """Those of the label tokens from `first` up to `end`, counted from `first`."""
        here = slice(*torch.searchsorted(self.at, torch.tensor([first, end])).tolist())
        return Taught(self.at[here] - first, self.states[here], self.weight[here], self.temperature[here])

    def add_(self, losses: Tensor, states_grad: Tensor | None, states: Tensor, head: FrozenLinear) -> None:
        """Add to the tokens' losses (M,) what they are to learn, and to `states_grad` (M, d) its gradient with respect
        to the states (M, d) that the `head` reads.
        """
        at = self.at.to(states.device)
        more, grad = taught_losses(states[at], self, head, graded=states_grad is not None)
        losses.index_add_(0, at, more)
        if states_grad is not None and grad is not None:
            states_grad.index_add_(0, at, grad)


def taught_losses(states: Tensor, taught: Taught, head: FrozenLinear, graded: bool) -> tuple[Tensor, Tensor | None]:
    """w tau^2 KL(q || p) of each of k tokens, (k,) fp32, of the temperature tau: p = softmax(W h / tau) of its state h
    (k, d), q the same of its teacher's. If `graded`, also the gradient with respect to h, w tau (p - q) W: (k, d).
    """
    losses = torch.empty(len(states), dtype=torch.float32, device=states.device)
    states_grad = torch.empty_like(states) if graded else None
    for part in chunks(len(states), len(head.weight)):
        tau, weight = taught.temperature[part], taught.weight[part]
        own, other = (torch.log_softmax(head(x[part]).float() / tau[:, None], 1) for x in (states, taught.states))
        q = other.exp()
        losses[part] = weight * tau.square() * (q * (other - own)).sum(1)
        if states_grad is not None:
            logits_grad = own.exp_().sub_(q).mul_((weight * tau)[:, None])
            states_grad[part] = head.backward(logits_grad.to(states.dtype))
    return losses, states_grad
