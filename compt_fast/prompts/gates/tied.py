"""Alpha of each task is learned, the sigmoid of a logit that starts at 0, and beta is 1 - alpha."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compt_fast.prompts.entry import Parameter
from compt_fast.prompts.gates import Gate
from compt_fast.prompts.products import sigmoid
from compt_fast.prompts.shape import PromptShape


def parameters(shape: PromptShape) -> dict[str, Parameter]:
    """One logit a task."""
    return {"gates": Parameter((shape.tasks, 1))}


def tied(params: Mapping[str, Tensor], shape: PromptShape) -> Tensor:
    """(R, T, 2)."""
    alpha = sigmoid(params["gates"])
    return torch.cat([alpha, 1 - alpha], dim=-1)


ENTRY = Gate(parameters, tied, kernel="tied", captured=True)
