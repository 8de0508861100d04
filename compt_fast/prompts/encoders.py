"""Prompt encoders: from raw prompt tokens E[p] to prompts P[p] = enc(E[p]).

ComPT Eq. 2 (an MLP with one hidden layer and the exact GELU), CrossPT Section 2.1 (a single linear
map) and the bidirectional LSTM before the MLP that both papers tried. Weights are laid out as in
`torch.nn.Linear` and `torch.nn.LSTM` behind two leading axes, run R and encoder K: K is the number
of prompts of the role where each prompt owns its encoder, else 1. Every product is batched over
(R, K).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from compt_fast.prompts.products import batched
from compt_fast.prompts.shape import ROLES, PromptShape

LSTM_KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
LSTM_ENDS = ("_l0", "_l0_reverse", "_l1", "_l1_reverse")
ENCODER_PARAMETERS = (
    *(f"lstm.{kind}{end}" for end in LSTM_ENDS for kind in LSTM_KINDS),
    *("hidden.weight", "hidden.bias", "out.weight", "out.bias"),
)


def encoder_shapes(shape: PromptShape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one encoder's parameters; empty for `none`."""
    d, h = shape.d_model, shape.hidden
    if shape.encoder == "none":
        return {}
    if shape.encoder == "linear":
        return {"out.weight": (d, d), "out.bias": (d,)}
    mlp = {"hidden.weight": (h, d), "hidden.bias": (h,), "out.weight": (d, h), "out.bias": (d,)}
    if shape.encoder == "mlp":
        return mlp
    # four gates of d/2 rows each; the input is d wide in both layers
    kinds: dict[str, tuple[int, ...]] = dict(
        zip(LSTM_KINDS, ((2 * d, d), (2 * d, d // 2), (2 * d,), (2 * d,)), strict=True)
    )
    return {f"lstm.{kind}{end}": kinds[kind] for end in LSTM_ENDS for kind in LSTM_KINDS} | mlp


def init_bound(shape: PromptShape, name: str) -> float:
    """The b of the initial U(-b, b) of an encoder's parameter: torch's own defaults.

    1/sqrt(fan in) for weights and biases of a linear layer, 1/sqrt(d/2) for an LSTM.
    """
    if name.startswith("lstm."):
        return 1 / math.sqrt(shape.d_model // 2)
    if name.startswith("out.") and shape.encoder != "linear":
        return 1 / math.sqrt(shape.hidden)
    return 1 / math.sqrt(shape.d_model)


def encoder_prefix(shape: PromptShape, role: str) -> str:
    """The first part of the names of the role's encoder parameters.

    An encoder shared by the roles has a name of its own only where both roles exist.
    """
    both = all(shape.has_encoder(each) for each in ROLES)
    return "shared_encoder" if shape.sharing == "shared" and both else f"{role}_encoder"


def encode(params: Mapping[str, Tensor], shape: PromptShape, role: str) -> Tensor:
    """The encoded prompts of a role ("source" or "private"), (R, P, m, d), in the tokens' dtype.

    Differentiable in the tokens `<role>_tokens` (R, P, m, d) and in the encoder's parameters.
    """
    tokens = params[f"{role}_tokens"]
    if not shape.has_encoder(role):
        return tokens
    prefix = encoder_prefix(shape, role)
    own = {name: params[f"{prefix}.{name}"] for name in encoder_shapes(shape)}
    runs, prompts, length, d = tokens.shape
    encoders = own["out.weight"].shape[1]
    # (R, P, m, d) -> (R*K, P/K, m, d): encoder k reads the P/K prompts that are its own
    x = tokens.reshape(runs * encoders, prompts // encoders, length, d)
    weights = {name: tensor.flatten(0, 1) for name, tensor in own.items()}
    if shape.encoder == "lstm":
        x = _lstm(weights, x)
    if shape.encoder != "linear":
        x = functional.gelu(_linear(x, weights["hidden.weight"], weights["hidden.bias"]))
    return _linear(x, weights["out.weight"], weights["out.bias"]).reshape(tokens.shape)


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (K, ..., i) with weight (K, o, i) and bias (K, o) -> (K, ..., o)."""
    flat = x.reshape(x.shape[0], -1, x.shape[-1])
    out = batched(flat, weight.transpose(1, 2), bias.unsqueeze(1))
    return out.reshape(*x.shape[:-1], -1)


def _lstm(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """A bidirectional LSTM over the m tokens of each prompt, all encoders side by side.

    x (K, B, m, d) -> (K, B, m, d), d/2 from each direction.
    """
    for layer in ("_l0", "_l1"):
        forward = _lstm_direction(weights, layer, x)
        backward = _lstm_direction(weights, f"{layer}_reverse", x.flip(2)).flip(2)
        x = torch.cat([forward, backward], dim=-1)
    return x


def _lstm_direction(weights: Mapping[str, Tensor], end: str, x: Tensor) -> Tensor:
    """One direction of one layer, starting from zero state: (K, B, m, d) -> (K, B, m, d/2)."""
    recurrent = weights[f"lstm.weight_hh{end}"]
    bias = weights[f"lstm.bias_ih{end}"] + weights[f"lstm.bias_hh{end}"]
    inputs = _linear(x, weights[f"lstm.weight_ih{end}"], bias)
    state = cell = x.new_zeros(*x.shape[:2], recurrent.shape[-1])
    states = []
    for token in inputs.unbind(2):
        gates = batched(state, recurrent.transpose(1, 2), token)
        enter, keep, value, leave = gates.chunk(4, dim=-1)  # torch's order
        cell = torch.sigmoid(keep) * cell + torch.sigmoid(enter) * torch.tanh(value)
        state = torch.sigmoid(leave) * torch.tanh(cell)
        states.append(state)
    return torch.stack(states, dim=2)
