"""Each prompt token as a sum of h rows of the vocabulary with weights that it learns (SuperPos, arXiv 2406.05279).

All tokens of a prompt weigh the same rows, and nothing normalises the weights. They are drawn so that a prompt token
varies as much as a row does, which is our choice.
"""

from __future__ import annotations

import math

from compt_fast.prompts.encoders import Encoder, inner_width
from compt_fast.prompts.encoders.low_rank import as_layer, combined
from compt_fast.prompts.entry import VOCABULARY, Parameter
from compt_fast.prompts.shape import PromptShape


def parameters(shape: PromptShape) -> dict[str, Parameter]:
    """The rows (h, d), which --lr-encoder 0 keeps as they are."""
    return {"rows": Parameter((shape.hidden, shape.d_model), VOCABULARY)}


def weights_of_rows(shape: PromptShape) -> tuple[float, float]:
    """Uniform with variance 1/h: a sum of h rows has the variance of one."""
    bound = math.sqrt(3 / shape.hidden)
    return -bound, bound


ENTRY = Encoder(
    parameters,
    combined,
    hidden=True,
    layers=as_layer,
    width=inner_width,
    initial=weights_of_rows,
    kernel="linear",
    captured=True,
)
