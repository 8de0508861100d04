"""The reference formula of target prompts, in plain PyTorch: ComPT Eq. 4 and CrossPT Eq. 1.

Target prompts are constants of (run, task) unless the gates are `input`: then alpha and beta are
predicted for each input row, and `compose_rows` finishes what `compose` began.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compt_fast.prompts.encoders import encode
from compt_fast.prompts.products import batched, sigmoid
from compt_fast.prompts.routing import Mask, anneal, weights
from compt_fast.prompts.shape import PromptShape

__all__ = ["Composition", "Mask", "anneal", "compose", "compose_rows"]


@dataclass(frozen=True)
class Composition:
    """Target prompts of R runs and T tasks, and what they were made of; a lacking part is None.

    targets (R, T, L, d), L the shape's target length; None with gates `input`. sources
    (R, N, m, d) and privates (R, T, m, d), encoded; masked privates are zero. Of a half of `scp`
    that a mask removes nothing is left, and L is m less. weights
    (R, T, n_weights), in `inside` the private prompt's last. gates (R, T, 2): alpha (private) and
    beta (sources), of `spp` and `scp` unless the gates are `input`.
    """

    targets: Tensor | None
    sources: Tensor | None
    privates: Tensor | None
    weights: Tensor | None
    gates: Tensor | None


def compose(
    params: Mapping[str, Tensor],
    shape: PromptShape,
    *,
    training: bool = False,
    temperature: Tensor | None = None,
    noise: Tensor | None = None,
    mask: Mask | None = None,
) -> Composition:
    """The target prompts of all runs and tasks, differentiable in `params`, in their dtype.

    `params` are a bank's, each with the run axis R first. temperature (R,) and noise
    (R, T, n_weights) are what a `relaxed-bernoulli` router needs in training. `mask` switches
    prompts off: a masked private's term is zero, and where all sources are masked so is their
    mixture; in `scp` either's m tokens stay, as zeros, unless the mask removes them.

    Raises `InputError` for a mask of another number of sources.
    """
    sources = encode(params, shape, "source") if shape.sources else None
    privates = encode(params, shape, "private") if shape.private else None
    if mask and not mask.private and privates is not None:
        privates = torch.zeros_like(privates)
    w = None
    if sources is not None:
        size = (sources.shape[0], shape.tasks, shape.n_weights)
        logits = params["router"] if shape.has_router else sources.new_zeros(size)
        w = weights(logits, shape, training=training, temperature=temperature, noise=noise, mask=mask)
    elif mask:
        mask.candidates(shape)  # for its check: there are no weights to mask
    if mask and mask.tokens == "remove" and shape.composition == "scp":
        privates = privates if mask.private else None
        sources, w = (sources, w) if any(mask.sources) else (None, None)
    parts = Composition(None, sources, privates, w, _gates(params, shape))
    return parts if shape.gates == "input" else replace(parts, targets=_targets(parts, shape))


def compose_rows(
    composition: Composition,
    params: Mapping[str, Tensor],
    shape: PromptShape,
    runs: Tensor,
    tasks: Tensor,
    means: Tensor,
) -> Tensor:
    """The target prompt (B, L, d) of each of B input rows, for gates `input`.

    `composition` is what `compose` gave for `params`; runs and tasks (B,) int64 say whose row each
    is; means (B, d), any float dtype, is the mean of the row's token embeddings. alpha and beta are
    sigmoids of one linear layer d -> 2 of it: ComPT, Section 2.2, names gates computed for each
    input; the layer is ours.
    """
    if shape.gates != "input":
        raise ValueError(f"gates are {shape.gates!r}: the targets of compose() are whole")
    weight, bias = params["gates.weight"][runs], params["gates.bias"][runs]
    gates = sigmoid(torch.einsum("bd,bgd->bg", means.to(weight), weight) + bias)
    mixture, privates = _mixture(composition, shape), composition.privates
    return _gated(
        shape,
        None if mixture is None else mixture[runs, tasks],
        None if privates is None else privates[runs, tasks],
        gates,
    )


def _targets(parts: Composition, shape: PromptShape) -> Tensor:
    """(R, T, L, d) from the parts, with gates that are no function of the input."""
    privates, gates = parts.privates, parts.gates
    mixture = _mixture(parts, shape)
    if gates is not None:
        return _gated(shape, mixture, privates, gates)
    if mixture is None:  # pt
        assert privates is not None
        return privates
    if privates is None:  # mst, and inside without a private
        return mixture
    assert parts.weights is not None
    return mixture + parts.weights[..., -1, None, None] * privates  # inside


def _mixture(parts: Composition, shape: PromptShape) -> Tensor | None:
    """sum_i w[t, i] P_src[i]: (R, T, m, d); None without sources."""
    if parts.weights is None:
        return None
    assert parts.sources is not None
    weights, sources = parts.weights[..., : shape.sources], parts.sources
    return batched(weights, sources.flatten(2)).unflatten(2, sources.shape[2:])


def _gated(shape: PromptShape, mixture: Tensor | None, privates: Tensor | None, gates: Tensor) -> Tensor:
    """ComPT Eq. 4: mixture and privates (..., m, d), gates (..., 2) -> (..., L, d).

    One of the two may have been removed from `scp`.
    """
    alpha, beta = gates[..., None, None].unbind(-3)
    if shape.composition == "scp":
        halves = [gate * half for gate, half in ((beta, mixture), (alpha, privates)) if half is not None]
        return torch.cat(halves, dim=-2)
    assert mixture is not None and privates is not None
    return alpha * privates + beta * mixture


def _gates(params: Mapping[str, Tensor], shape: PromptShape) -> Tensor | None:
    """alpha and beta of each run and task, (R, T, 2); None without gates or with gates `input`."""
    if not shape.has_gates or shape.gates == "input":
        return None
    tokens = params["private_tokens"]
    if shape.gates == "fixed":
        return tokens.new_ones(tokens.shape[0], shape.tasks, 2)
    gates = sigmoid(params["gates"])
    if shape.gates == "tied":
        return torch.cat([gates, 1 - gates], dim=-1)
    return gates.expand(-1, shape.tasks, -1)
