"""The private prompt, if there is one, stands inside the sources' softmax (CrossPT Eq. 1)."""

from __future__ import annotations

from torch import Tensor

from compt_fast.prompts.compositions import Parts, Rule


def mixed(parts: Parts) -> Tensor:
    """sum_i w[i] P_src[i] + w[N] P_pri: (..., m, d)."""
    assert parts.mixture is not None and parts.weights is not None
    if parts.privates is None:
        return parts.mixture
    return parts.mixture + parts.weights[..., -1, None, None] * parts.privates


ENTRY = Rule(
    mixed,
    private=None,
    private_inside=True,
    normalisation="softmax-temperature",  # the paper has no other
    kernel="inside",
    captured=True,
)
