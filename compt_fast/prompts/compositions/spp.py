"""Sources plus private: alpha P_pri + beta sum_i w[i] P_src[i] (ComPT Eq. 4)."""

from __future__ import annotations

from torch import Tensor

from compt_fast.prompts.compositions import Parts, Rule


def added(parts: Parts) -> Tensor:
    """(..., m, d)."""
    assert parts.mixture is not None and parts.privates is not None and parts.gates is not None
    alpha, beta = parts.gates[..., None, None].unbind(-3)
    return alpha * parts.privates + beta * parts.mixture


ENTRY = Rule(added, gated=True, kernel="spp", captured=True)
