"""One prompt that all tasks share, scaled for each by a matrix of rank one: P o (u_t v_t^T) (MPT, arXiv 2303.02861)."""

from __future__ import annotations

from torch import Tensor

from compt_fast.prompts.compositions import Parts, Rule
from compt_fast.prompts.entry import Parameter
from compt_fast.prompts.shape import PromptShape

FACTORS = ("factors.u", "factors.v")


def parameters(shape: PromptShape) -> dict[str, Parameter]:
    """u (T, m) and v (T, d), which train at the rate of what is a task's own. They start at 1, so that every target
    prompt starts as the shared one; that is ours.
    """
    sizes = ((shape.tasks, shape.length), (shape.tasks, shape.d_model))
    return {name: Parameter(size, (1.0, 1.0), "private") for name, size in zip(FACTORS, sizes, strict=True)}


def scaled(parts: Parts) -> Tensor:
    """P_t[k, i] = P[k, i] u_t[k] v_t[i] (section 3.1): (R, T, m, d). A router of each row is not among its routers, so
    that its places are always the runs and tasks.
    """
    assert parts.mixture is not None
    u, v = (parts.params[name] for name in FACTORS)
    return parts.mixture * (u[..., :, None] * v[..., None, :])


ENTRY = Rule(scaled, sources="one", private=False, router="constant", parameters=parameters, captured=True)
