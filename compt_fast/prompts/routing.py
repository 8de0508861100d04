"""From a router's logits z[t, i] to the weights w[t, i] of source prompts (ComPT, Section 2.3), masks included."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compt_fast.config.choices import MASKED_TOKENS, MASKINGS
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError, unknown


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

    logits (R, T, n_weights). temperature (R,) and noise (R, T, n_weights), uniform on [0, 1), are
    needed in training by a router that samples. Where everything is masked all weights are zero.
    Of a router that is `per_row`, (B, n_weights) takes the place of (R, T, n_weights).

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
    """Weights over exactly the candidates that `logits` (..., n) holds; the kind of normalisation and its temperature
    stay those the run was trained with.
    """
    router, normalisation = shape.entries.router, shape.entries.normalisation
    if training and router.sample is not None:
        if noise is None or (temperature is None) != (router.temperature is None):
            raise ValueError(f"{shape.router} needs noise, and a temperature if it has one, in training")
        return router.sample(logits, temperature, noise)
    if router.weights is not None:
        return router.weights(logits)
    return normalisation.formula(logits / shape.tau if normalisation.temperature else logits)
