"""A short private prompt, and a low-rank update of the text's embeddings by their places (DePT, arXiv 2309.05173).

Token i of a text of task t enters the trunk as e_i + (A_t B_t)_i. A is s x r and starts as in the published code, B is
r x d and starts at 0. Texts have no padding: i counts within the row, and what stands behind the first s tokens is left
as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from compt_fast.prompts.compositions import Rule
from compt_fast.prompts.compositions.pt import private
from compt_fast.prompts.entry import Parameter, Rows
from compt_fast.prompts.products import batched
from compt_fast.prompts.shape import BUDGET, PromptShape


def parameters(shape: PromptShape) -> dict[str, Parameter]:
    """A (T, s, r) and B (T, r, d)."""
    tasks, rank = shape.tasks, shape.update_rank
    bound = 1 / math.sqrt(rank)
    return {
        "update.a": Parameter((tasks, shape.update_length, rank), (-bound, bound), "update"),
        "update.b": Parameter((tasks, rank, shape.d_model), group="update"),
    }


def rank(shape: PromptShape) -> int:
    """(100 - m) d / (s + d): prompt and update have as many numbers as a prompt of 100 tokens (section 3.1)."""
    return max((BUDGET - shape.length) * shape.d_model // (shape.update_length + shape.d_model), 0)


def by_place(params: Mapping[str, Tensor], shape: PromptShape, rows: Rows) -> Tensor:
    """(N, d)."""
    texts, most = rows.texts, shape.update_length
    table = batched(params["update.a"].flatten(0, 1), params["update.b"].flatten(0, 1)).flatten(0, 1)
    first = texts.by_token((rows.runs * shape.tasks + rows.tasks) * most)
    update = functional.embedding(first + texts.places.clamp(max=most - 1), table)
    return update * (texts.places < most)[:, None]


ENTRY = Rule(
    private,
    sources="none",
    router="constant",
    parameters=parameters,
    input_update=by_place,
    update_rank=rank,
    by_place=True,
)
