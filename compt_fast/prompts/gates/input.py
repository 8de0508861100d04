"""Alpha and beta of each input row: sigmoids of one linear layer d -> 2 of the mean of the row's token embeddings.

ComPT, Section 2.2, names gates computed for each input; the layer is ours. Every row is a slot of its own, for which no
CUDA graph has room.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compt_fast.prompts.entry import Parameter, Rows
from compt_fast.prompts.gates import Gate
from compt_fast.prompts.products import chosen, sigmoid
from compt_fast.prompts.shape import PromptShape


def parameters(shape: PromptShape) -> dict[str, Parameter]:
    """The layer of a run, which starts at 0."""
    return {"gates.weight": Parameter((2, shape.d_model)), "gates.bias": Parameter((2,))}


def of_rows(params: Mapping[str, Tensor], shape: PromptShape, rows: Rows) -> Tensor:
    """(B, 2)."""
    weight, bias = (chosen(params[name], rows.runs) for name in parameters(shape))
    return sigmoid(torch.einsum("bd,bgd->bg", rows.texts.means.to(weight), weight) + bias)


ENTRY = Gate(parameters, of_rows, per_row=True)
