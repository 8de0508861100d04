"""One source prompt for all tasks, and nothing else."""

from __future__ import annotations

from torch import Tensor

from compt_fast.prompts.compositions import Parts, Rule


def shared(parts: Parts) -> Tensor:
    """(..., m, d): the mixture of one source, whose weight is 1 unless it is masked."""
    assert parts.mixture is not None
    return parts.mixture


ENTRY = Rule(shared, sources="one", private=False, router="constant", kernel="mst", captured=True)
