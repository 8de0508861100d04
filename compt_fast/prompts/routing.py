"""The router: from logits z[t, i] to the weights w[t, i] of source prompts (ComPT, Section 2.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compt_fast.config.choices import MASKED_TOKENS, MASKINGS
from compt_fast.prompts.products import sigmoid
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError, unknown

FIRST_TEMPERATURE = 5.0
LAST_TEMPERATURE = 0.1
ANNEALED_PART = 0.6


def check_masking(how: str, tokens: str) -> None:
    """Raise `InputError` unless these are ways of a `Mask` to treat weights and tokens."""
    if how not in MASKINGS:
        raise unknown("masking", how, MASKINGS)
    if tokens not in MASKED_TOKENS:
        raise unknown("treatment of masked tokens", tokens, MASKED_TOKENS)


@dataclass(frozen=True)
class Mask:
    """Which prompts stay switched on in an ablation (True: on), for every run and task alike.

    `how` decides what masking does to the weights: "before" takes the masked prompts out of the
    candidate set before normalisation, so that the rest renormalise (one that is left alone gets
    weight 1 of a softmax); "after" sets their weights to zero and leaves the rest as they are.

    A masked private prompt is zero in every composition. `tokens` decides what that leaves of a
    concatenation (`scp`) whose private half, or all of whose sources, are masked: "zero" keeps the
    half's m tokens, which go on taking a share of the attention; "remove" takes them out.
    """

    sources: tuple[bool, ...]
    private: bool = True
    how: str = "before"
    tokens: str = "zero"

    def __post_init__(self) -> None:
        check_masking(self.how, self.tokens)

    def candidates(self, shape: PromptShape) -> list[bool]:
        """For each of the shape's weights, whether its prompt is on."""
        if len(self.sources) != shape.sources:
            raise InputError(
                f"the mask says on or off for {len(self.sources)} source prompts, but there are {shape.sources}"
            )
        private_inside = shape.n_weights > shape.sources
        return [*self.sources, self.private] if private_inside else list(self.sources)


def sparsemax(logits: Tensor) -> Tensor:
    """The Euclidean projection of the last axis onto the probability simplex, exact zeros included.

    Martins & Astudillo 2016, Algorithm 1: p = max(z - threshold, 0) with the threshold that makes
    the support's entries sum to 1. Its derivative follows from the formula as written: on the
    support dz = g - mean of g over the support, elsewhere 0.
    """
    # the projection does not change when all logits move together; small numbers sum exactly
    z = logits - logits.detach().amax(-1, keepdim=True)
    ordered = z.sort(dim=-1, descending=True).values
    sums = ordered.cumsum(-1)
    ranks = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
    # at least 1 but for NaN, which has to pass through to its own run and stop no other
    size = (1 + ranks * ordered > sums).sum(-1, keepdim=True).clamp(min=1)
    threshold = (sums.gather(-1, size - 1) - 1) / size
    return torch.relu(z - threshold)


def relaxed_bernoulli(logits: Tensor, temperature: Tensor, noise: Tensor) -> Tensor:
    """A reparameterised draw of RelaxedBernoulli(temperature, logits): in (0, 1), differentiable.

    logits and noise (R, T, n), the noise uniform on [0, 1); temperature (R,), positive.
    """
    # the logit of 0 or 1 would be infinite
    logistic = torch.logit(noise.to(logits), eps=torch.finfo(noise.dtype).eps)
    return sigmoid((logits + logistic) / temperature.to(logits)[:, None, None])


def anneal(step: Tensor, steps: Tensor) -> Tensor:
    """The temperature (R,) at `step` of `steps`: linear from 5 to 0.1 over 60 % of a run's steps.

    step (R,) counts from 0, steps (R,) is at least 1; any dtype. The schedule is ours.
    """
    part = (step / (ANNEALED_PART * steps)).clamp(0, 1)
    return FIRST_TEMPERATURE + (LAST_TEMPERATURE - FIRST_TEMPERATURE) * part


def normalise(logits: Tensor, shape: PromptShape) -> Tensor:
    """Weights of logits (..., n) by the shape's normalisation.

    n may be smaller than the shape's number of weights (masked prompts are absent); the kind of
    normalisation and its temperature stay those the run was trained with.
    """
    kind = shape.normaliser
    if kind == "sigmoid":
        return sigmoid(logits)
    if kind == "sparsemax":
        return sparsemax(logits)
    return torch.softmax(logits / shape.tau if kind == "softmax-temperature" else logits, dim=-1)


def weights(
    logits: Tensor,
    shape: PromptShape,
    *,
    training: bool = False,
    temperature: Tensor | None = None,
    noise: Tensor | None = None,
    mask: Mask | None = None,
) -> Tensor:
    """The weights (R, T, n_weights) of the shape's router, non-negative, in the logits' dtype.

    logits (R, T, n_weights), of which a router without parameters uses the size only: its weights
    are uniform. temperature (R,) and noise (R, T, n_weights), uniform on [0, 1), are needed by
    `relaxed-bernoulli` in training; its weights at evaluation are sigmoid(logits). Where everything
    is masked all weights are zero.

    Raises `InputError` for a mask of another number of sources.
    """
    if mask is None:
        return _unmasked(logits, shape, training, temperature, noise)
    candidates = mask.candidates(shape)
    if mask.how == "after":
        whole = _unmasked(logits, shape, training, temperature, noise)
        return whole * logits.new_tensor(candidates)
    if not any(candidates):
        return torch.zeros_like(logits)
    kept = torch.tensor([i for i, on in enumerate(candidates) if on], device=logits.device)
    few_noise = None if noise is None else noise.index_select(-1, kept)
    few = _unmasked(logits.index_select(-1, kept), shape, training, temperature, few_noise)
    return torch.zeros_like(logits).index_copy(-1, kept, few)


def _unmasked(
    logits: Tensor,
    shape: PromptShape,
    training: bool,
    temperature: Tensor | None,
    noise: Tensor | None,
) -> Tensor:
    """Weights over exactly the candidates that `logits` (R, T, n) holds."""
    if not shape.has_router:
        return torch.full_like(logits, 1 / logits.shape[-1])
    if training and shape.router == "relaxed-bernoulli":
        if temperature is None or noise is None:
            raise ValueError("relaxed-bernoulli needs a temperature and noise in training")
        return relaxed_bernoulli(logits, temperature, noise)
    return normalise(logits, shape)
