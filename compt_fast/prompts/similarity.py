"""How alike prompts are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def mean_cosine(a: Tensor, b: Tensor) -> Tensor:
    """cos(mean_k a[p, k], mean_k b[q, k]) of every pair of prompts: (P, Q) float64.

    a (P, m, d) and b (Q, m', d), any float dtype. It is the target-source similarity of ComPT and of
    CrossPT (section 4.5), and what SPoT (Vu et al. 2022) chooses a source by. A prompt whose mean is
    zero is like none: 0.
    """
    first, second = (normalize(prompts.to(torch.float64).mean(1), dim=-1) for prompts in (a, b))
    return first @ second.T
