"""Prompt encoders at work on all prompts of a role: each prompt has its own, or prompts share one.

Weights are laid out as in torch's own layers behind two leading axes, run R and encoder K: K is the number of prompts
of the role where each prompt owns its encoder, else 1. Every product is batched over (R, K).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from compt_fast.prompts.entry import Parameter
from compt_fast.prompts.shape import ROLES, PromptShape


def raw_tokens(shape: PromptShape, role: str) -> Parameter:
    """The tokens that a role's prompts are, or are encoded from, in the group of its name; sizes (P, m, w)."""
    encoded, encoder = shape.has_encoder(role), shape.entries.encoder
    width = encoder.width(shape) if encoded else shape.d_model
    return Parameter((shape.prompts(role), shape.length, width), encoder.initial(shape) if encoded else None, role)


def encoder_count(shape: PromptShape, role: str) -> int:
    """K: how many encoders the prompts of a role have."""
    return shape.prompts(role) if shape.sharing == "per-prompt" else 1


def encoder_prefix(shape: PromptShape, role: str) -> str:
    """The first part of the names of the role's encoder parameters.

    An encoder shared by the roles has a name of its own only where both roles exist.
    """
    both = all(shape.has_encoder(each) for each in ROLES)
    return "shared_encoder" if shape.sharing == "shared" and both else f"{role}_encoder"


def encoder_parameters(shape: PromptShape, role: str) -> dict[str, Parameter]:
    """The parameters of a role's encoders by their whole names, in the group of that name; sizes (K, ...)."""
    if not shape.has_encoder(role):
        return {}
    prefix, count = encoder_prefix(shape, role), encoder_count(shape, role)
    return {
        f"{prefix}.{name}": Parameter((count, *one.size), one.initial, prefix)
        for name, one in shape.entries.encoder.parameters(shape).items()
    }


def encode(params: Mapping[str, Tensor], shape: PromptShape, role: str) -> Tensor:
    """The encoded prompts of a role ("source" or "private"), (R, P, m, d), in the tokens' dtype.

    Differentiable in the tokens `<role>_tokens` (R, P, m, w), w the encoder's width, and in the encoder's parameters.
    """
    tokens, encoder = params[f"{role}_tokens"], shape.entries.encoder
    if encoder.formula is None or not shape.has_encoder(role):
        return tokens
    prefix, encoders = encoder_prefix(shape, role), encoder_count(shape, role)
    runs, prompts, length, width = tokens.shape
    # (R, P, m, w) -> (R*K, P/K, m, w): encoder k reads the P/K prompts that are its own
    x = tokens.reshape(runs * encoders, prompts // encoders, length, width)
    weights = {name: params[f"{prefix}.{name}"].flatten(0, 1) for name in encoder.parameters(shape)}
    return encoder.formula(weights, x).reshape(runs, prompts, length, -1)
