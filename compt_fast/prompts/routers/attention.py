"""Each input row attends to the prompts: ATTEMPT (arXiv 2205.11961, Section 3.2).

    x = maxpool(token embeddings)    h = LayerNorm(W_up SiLU(W_down x))    z_j = maxpool(P_j) . h / (e d)

The largest value of each component is taken over the row's tokens, and over the tokens of each source prompt and, where
it has a weight too, of the private prompt. All tasks of a run share W_down (100, d), W_up (d, 100) and the layer
normalisation. The paper counts the last among what learns, its authors' code leaves it at 1 and 0: here it learns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from compt_fast.prompts.entry import Parameter, Rows
from compt_fast.prompts.products import batched, chosen, sigmoid
from compt_fast.prompts.routers import Router
from compt_fast.prompts.shape import PromptShape

BOTTLENECK = 100


def parameters(shape: PromptShape) -> dict[str, Parameter]:
    """Two layers without bias, which start as `torch.nn.Linear` does, and a layer normalisation."""
    d = shape.d_model
    first, last = 1 / math.sqrt(d), 1 / math.sqrt(BOTTLENECK)
    return {
        "attention.down": Parameter((BOTTLENECK, d), (-first, first)),
        "attention.up": Parameter((d, BOTTLENECK), (-last, last)),
        "attention.scale": Parameter((d,), (1.0, 1.0)),
        "attention.shift": Parameter((d,)),
    }


def logits(params: Mapping[str, Tensor], shape: PromptShape, rows: Rows) -> Tensor:
    """(B, n): of the sources, and last of the private prompt where that has a weight."""
    down, up, scale, shift = (chosen(params[name], rows.runs) for name in parameters(shape))
    hidden = batched(rows.texts.maxima.to(down)[:, None], down.transpose(1, 2))
    turned = batched(hidden * sigmoid(hidden), up.transpose(1, 2)).squeeze(1)
    query = functional.layer_norm(turned, turned.shape[-1:]) * scale + shift
    assert rows.sources is not None
    keys = chosen(rows.sources.amax(2), rows.runs)
    if shape.n_weights > shape.sources:
        assert rows.privates is not None
        own = chosen(rows.privates.amax(2).flatten(0, 1), rows.runs * shape.tasks + rows.tasks)
        keys = torch.cat([keys, own[:, None]], dim=1)
    return batched(keys, query[..., None]).squeeze(-1) / (math.e * shape.d_model)


ENTRY = Router(parameters, logits, per_row=True)
