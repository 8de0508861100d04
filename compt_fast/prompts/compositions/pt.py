"""Plain prompt tuning: the task's private prompt alone."""

from __future__ import annotations

from torch import Tensor

from compt_fast.prompts.compositions import Parts, Rule


def private(parts: Parts) -> Tensor:
    """(..., m, d)."""
    assert parts.privates is not None
    return parts.privates


ENTRY = Rule(private, sources="none", router="constant", kernel="pt", captured=True)
