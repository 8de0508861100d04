"""In training each weight is drawn by itself, ever closer to 0 or 1; at evaluation it is the sigmoid of its logit."""

from __future__ import annotations

import torch
from torch import Tensor

from compt_fast.prompts.products import sigmoid
from compt_fast.prompts.routers import Router
from compt_fast.prompts.routers.direct import logits, parameters

FIRST_TEMPERATURE = 5.0
LAST_TEMPERATURE = 0.1
ANNEALED_PART = 0.6


def relaxed_bernoulli(logits: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
    """A reparameterised draw of RelaxedBernoulli(temperature, logits): in (0, 1), differentiable.

    logits and noise (R, T, n), the noise uniform on [0, 1); temperature (R,), positive.
    """
    # the logit of 0 or 1 would be infinite
    logistic = torch.logit(noise.to(logits), eps=torch.finfo(noise.dtype).eps)
    return sigmoid((logits + logistic) / temperature.to(logits)[:, None, None])


def anneal(step: Tensor, steps: Tensor) -> Tensor:
    """The temperature (R,) at `step` of `steps`: linear from 5 to 0.1 over 60 % of a run's steps.

    step (R,) counts from 0, steps (R,) is at least 1; any dtype. The schedule is ours.
    """
    part = (step / (ANNEALED_PART * steps)).clamp(0, 1)
    return FIRST_TEMPERATURE + (LAST_TEMPERATURE - FIRST_TEMPERATURE) * part


ENTRY = Router(parameters, logits, normalisation="sigmoid", sample=relaxed_bernoulli, temperature=anneal, captured=True)
