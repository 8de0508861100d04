"""The softmax of the logits."""

from __future__ import annotations

import torch
from torch import Tensor

from compt_fast.prompts.normalisations import Normalisation


def softmax(logits: Tensor) -> Tensor:
    """(..., n) -> (..., n), each row adding up to 1."""
    return torch.softmax(logits, dim=-1)


ENTRY = Normalisation(softmax, kernel="softmax", captured=True)
