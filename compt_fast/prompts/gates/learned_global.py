"""One alpha and one beta are learned for all tasks: sigmoids of two logits, which start at 0."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from compt_fast.prompts.entry import Parameter
from compt_fast.prompts.gates import Gate
from compt_fast.prompts.products import sigmoid
from compt_fast.prompts.shape import PromptShape


def parameters(shape: PromptShape) -> dict[str, Parameter]:
    """Two logits."""
    return {"gates": Parameter((1, 2))}


def sigmoids(params: Mapping[str, Tensor], shape: PromptShape) -> Tensor:
    """(R, T, 2), the same for every task."""
    return sigmoid(params["gates"]).expand(-1, shape.tasks, -1)


ENTRY = Gate(parameters, sigmoids, kernel="learned-global", captured=True)
