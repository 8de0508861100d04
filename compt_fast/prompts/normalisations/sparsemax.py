"""The projection of the logits onto the probability simplex, which leaves most sources of many without weight."""

from __future__ import annotations

import torch
from torch import Tensor

from compt_fast.prompts.normalisations import Normalisation


def sparsemax(logits: Tensor) -> Tensor:
    """The Euclidean projection of the last axis onto the probability simplex, exact zeros included.

    Martins & Astudillo 2016, Algorithm 1: p = max(z - threshold, 0) with the threshold that makes
    the support's entries sum to 1. Its derivative follows from the formula as written: on the
    support dz = g - mean of g over the support, elsewhere 0.
    """
    # the projection does not change when all logits move together; small numbers sum exactly
    z = logits - logits.detach().amax(-1, keepdim=True)
    ordered = z.sort(dim=-1, descending=True).values
    sums = ordered.cumsum(-1)
    ranks = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
    # at least 1 but for NaN, which has to pass through to its own run and stop no other
    size = (1 + ranks * ordered > sums).sum(-1, keepdim=True).clamp(min=1)
    threshold = (sums.gather(-1, size - 1) - 1) / size
    return torch.relu(z - threshold)


ENTRY = Normalisation(sparsemax, kernel="sparsemax", captured=True)
