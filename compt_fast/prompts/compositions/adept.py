"""A short private prompt, and an update of each token embedding by a small network of it (ADePT, arXiv 2501.03291).

A token e of a text of task t enters the trunk as e + ReLU(e W1 + b1) W2 + b2. W1 is d x r and starts as in the
published code, all else starts at 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from compt_fast.prompts.compositions import Rule
from compt_fast.prompts.compositions.pt import private
from compt_fast.prompts.entry import Parameter, Rows
from compt_fast.prompts.shape import BUDGET, PromptShape


def parameters(shape: PromptShape) -> dict[str, Parameter]:
    """W1 (T, d, r), b1 (T, r), W2 (T, r, d), b2 (T, d)."""
    tasks, d, rank = shape.tasks, shape.d_model, shape.update_rank
    bound = 1 / math.sqrt(rank)
    return {
        "update.w1": Parameter((tasks, d, rank), (-bound, bound), "update"),
        "update.b1": Parameter((tasks, rank), group="update"),
        "update.w2": Parameter((tasks, rank, d), group="update"),
        "update.b2": Parameter((tasks, d), group="update"),
    }


def rank(shape: PromptShape) -> int:
    """((100 - m) d - d) / (2d + 1): prompt and network have about as many numbers as a prompt of 100 tokens."""
    return max((BUDGET - shape.length - 1) * shape.d_model // (2 * shape.d_model + 1), 0)


def by_network(params: Mapping[str, Tensor], shape: PromptShape, rows: Rows) -> Tensor:
    """(N, d). The tokens of each run and task by themselves, so that others beside them change no bit."""
    embeddings = rows.texts.embeddings
    slots = rows.texts.by_token(rows.runs * shape.tasks + rows.tasks)
    w1, b1, w2, b2 = (params[f"update.{name}"].flatten(0, 1) for name in ("w1", "b1", "w2", "b2"))
    order = slots.argsort(stable=True)
    own = embeddings.to(w1)[order].split(slots.bincount(minlength=len(w1)).tolist())
    layers = zip(own, w1.unbind(), b1.unbind(), w2.unbind(), b2.unbind(), strict=True)
    found = [torch.relu(x @ first + b1) @ last + b2 for x, first, b1, last, b2 in layers]
    return torch.cat(found)[order.argsort()]


ENTRY = Rule(
    private, sources="none", router="constant", parameters=parameters, input_update=by_network, update_rank=rank
)
