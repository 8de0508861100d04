"""The private prompt, and behind it the source prompts, the latest first (Progressive Prompts, arXiv 2301.12314)."""

from __future__ import annotations

import torch
from torch import Tensor

from compt_fast.prompts.compositions import Parts, Rule
from compt_fast.prompts.shape import PromptShape


def after_the_others(parts: Parts) -> Tensor:
    """[P_pri; P_src[N]; ...; P_src[1]]: (..., (N + 1) m, d), or fewer tokens where a mask has removed some."""
    earlier = None if parts.sources is None else parts.sources.flip(-3).flatten(-3, -2)
    return torch.cat([part for part in (parts.privates, earlier) if part is not None], dim=-2)


def all_together(shape: PromptShape) -> int:
    """(N + 1) m."""
    return (shape.sources + 1) * shape.length


ENTRY = Rule(after_the_others, sources="listed", router="constant", removable=True, target_length=all_together)
