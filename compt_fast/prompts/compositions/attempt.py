"""The private prompt has a weight among the sources', and stands beside the mixture too (ATTEMPT, arXiv 2205.11961)."""

from __future__ import annotations

from torch import Tensor

from compt_fast.prompts.compositions import Parts, Rule


def attended(parts: Parts) -> Tensor:
    """P_pri + sum_i w[i] P_src[i] + w[N] P_pri: (..., m, d)."""
    assert parts.mixture is not None and parts.weights is not None and parts.privates is not None
    return parts.mixture + (1 + parts.weights[..., -1, None, None]) * parts.privates


ENTRY = Rule(attended, private_inside=True, normalisation="softmax")
