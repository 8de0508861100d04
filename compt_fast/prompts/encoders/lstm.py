"""The bidirectional LSTM before the MLP that both papers tried.

It starts as `torch.nn.LSTM` does. No CUDA graph has held it yet: its operators are a library's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from compt_fast.prompts.encoders import Encoder
from compt_fast.prompts.encoders.mlp import mlp
from compt_fast.prompts.encoders.mlp import parameters as mlp_parameters
from compt_fast.prompts.entry import Parameter
from compt_fast.prompts.products import batched, linear
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError

ENDS = ("_l0", "_l0_reverse", "_l1", "_l1_reverse")


def parameters(shape: PromptShape) -> dict[str, Parameter]:
    """Two layers of both directions, named as torch names them, and the MLP's."""
    d = shape.d_model
    bound = 1 / math.sqrt(d // 2)
    # four gates of d/2 rows each; the input is d wide in both layers
    kinds = {"weight_ih": (2 * d, d), "weight_hh": (2 * d, d // 2), "bias_ih": (2 * d,), "bias_hh": (2 * d,)}
    own = {f"lstm.{kind}{end}": Parameter(size, (-bound, bound)) for end in ENDS for kind, size in kinds.items()}
    return own | mlp_parameters(shape)


def check(shape: PromptShape) -> None:
    """Raise `InputError` for an odd d_model."""
    if shape.d_model % 2:
        raise InputError(
            f"encoder 'lstm' gives each direction half of d_model, and d_model {shape.d_model} "
            "is odd; use 'mlp', 'linear' or 'none' with this trunk"
        )


def lstm_and_mlp(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """(K, B, m, d)."""
    for layer in ("_l0", "_l1"):
        forward = _direction(weights, layer, x)
        backward = _direction(weights, f"{layer}_reverse", x.flip(2)).flip(2)
        x = torch.cat([forward, backward], dim=-1)
    return mlp(weights, x)


def _direction(weights: Mapping[str, Tensor], end: str, x: Tensor) -> Tensor:
    """One direction of one layer over the m tokens of each prompt, starting from zero state: (K, B, m, d) ->
    (K, B, m, d/2).
    """
    recurrent = weights[f"lstm.weight_hh{end}"]
    bias = weights[f"lstm.bias_ih{end}"] + weights[f"lstm.bias_hh{end}"]
    inputs = linear(x, weights[f"lstm.weight_ih{end}"], bias)
    state = cell = x.new_zeros(*x.shape[:2], recurrent.shape[-1])
    states = []
    for token in inputs.unbind(2):
        gates = batched(state, recurrent.transpose(1, 2), token)
        enter, keep, value, leave = gates.chunk(4, dim=-1)  # torch's order
        cell = torch.sigmoid(keep) * cell + torch.sigmoid(enter) * torch.tanh(value)
        state = torch.sigmoid(leave) * torch.tanh(cell)
        states.append(state)
    return torch.stack(states, dim=2)


ENTRY = Encoder(parameters, lstm_and_mlp, hidden=True, check=check)
