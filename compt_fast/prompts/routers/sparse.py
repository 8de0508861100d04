"""Each input row takes the source prompt of the largest probability, times that probability (SMoP, EMNLP 2023).

The logits are one linear layer of the mean of the row's token embeddings. In training they are perturbed, so that a
prompt that is seldom taken is tried, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from compt_fast.prompts.entry import Parameter, Rows
from compt_fast.prompts.routers import Router
from compt_fast.prompts.shape import PromptShape


def parameters(shape: PromptShape) -> dict[str, Parameter]:
    """The layer d -> n of a run, without a bias. Its rows are nearly of length 1 and nearly at right angles, where the
    paper's code makes them so exactly.
    """
    bound = math.sqrt(3 / shape.d_model)
    return {"router.weight": Parameter((shape.n_weights, shape.d_model), (-bound, bound))}


def logits(params: Mapping[str, Tensor], shape: PromptShape, rows: Rows) -> Tensor:
    """(B, n)."""
    weight = params["router.weight"][rows.runs]
    return torch.einsum("bd,bnd->bn", rows.texts.means.to(weight), weight)


def largest(logits: Tensor) -> Tensor:
    """p_i at the largest p = softmax(logits) (..., n), the first of equal ones, and 0 elsewhere (section 2.2)."""
    p = torch.softmax(logits, -1)
    return p * torch.zeros_like(p).scatter_(-1, p.detach().argmax(-1, keepdim=True), 1.0)


def perturbed(logits: Tensor, temperature: Tensor | None, noise: Tensor) -> Tensor:
    """`largest` of z (1 + e), e standard normal and the noise's size no function of z (section 2.3).

    noise (..., n) is uniform on [0, 1); there is no temperature.
    """
    tiny = torch.finfo(noise.dtype).eps
    normal = torch.special.ndtri(noise.clamp(tiny, 1 - tiny)).to(logits)
    return largest(logits + normal * logits.detach())


ENTRY = Router(parameters, logits, largest, sample=perturbed, per_row=True)
