"""Sources concatenated with private: [beta sum_i w[i] P_src[i]; alpha P_pri] (ComPT Eq. 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from compt_fast.prompts.compositions import Parts, Rule
from compt_fast.prompts.shape import PromptShape


def concatenated(parts: Parts) -> Tensor:
    """(..., 2m, d), or (..., m, d) where a mask has removed one half."""
    assert parts.gates is not None
    alpha, beta = parts.gates[..., None, None].unbind(-3)
    halves = [gate * half for gate, half in ((beta, parts.mixture), (alpha, parts.privates)) if half is not None]
    return torch.cat(halves, dim=-2)


def both(shape: PromptShape) -> int:
    """2m."""
    return 2 * shape.length


ENTRY = Rule(concatenated, gated=True, removable=True, target_length=both, kernel="scp", captured=True)
