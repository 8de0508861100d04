"""All weights are the same, 1/n, and nothing is learned."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compt_fast.prompts.entry import no_parameters
from compt_fast.prompts.routers import Router
from compt_fast.prompts.shape import PromptShape


def logits(params: Mapping[str, Tensor], shape: PromptShape) -> Tensor:
    """(R, T, n), of which only the size matters."""
    tokens = params["source_tokens"]
    return tokens.new_zeros(tokens.shape[0], shape.tasks, shape.n_weights)


def uniform(logits: Tensor) -> Tensor:
    """(..., n), each 1/n."""
    return torch.full_like(logits, 1 / logits.shape[-1])


ENTRY = Router(no_parameters, logits, uniform, kernel="constant", captured=True)
