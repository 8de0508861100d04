"""The logits of each task are learned as they are, and start at 0."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from compt_fast.prompts.entry import Parameter
from compt_fast.prompts.routers import Router
from compt_fast.prompts.shape import PromptShape


def parameters(shape: PromptShape) -> dict[str, Parameter]:
    """A logit for each task and weight."""
    return {"router": Parameter((shape.tasks, shape.n_weights))}


def logits(params: Mapping[str, Tensor], shape: PromptShape) -> Tensor:
    """(R, T, n)."""
    return params["router"]


ENTRY = Router(parameters, logits, kernel="direct", captured=True)
