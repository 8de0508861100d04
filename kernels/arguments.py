"""What the compose kernels are given, in groups: each of these is one argument of a kernel.

Triton hands a tuple's members over one by one. A tensor that a cohort does not have is None, which is known when the
kernel is compiled. In a kernel each tensor is the pointer to its first number; all are contiguous, and fp32 but where
said. R runs, T tasks, N sources, K encoders of a role, m tokens, d and h as in README.md.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Logits(NamedTuple):
    """What router and gates learn, and which sources a mask leaves on."""

    router: Tensor | None
    """(R, T, NW): the sources' and, for `inside`, the private prompt's."""
    gates: Tensor | None
    """(R, T, 2) for alpha and beta; (R, 1, 2) where tasks share them; (R, T, 1) where beta is 1 - alpha."""
    keep: Tensor | None
    """(NW,): 1, or 0 where a prompt is masked."""
    tau: float
    """What logits are divided by before a softmax; 1 before the other normalisations."""


class LogitGrads(NamedTuple):
    """The gradients of `Logits`, of the same shapes."""

    router: Tensor | None
    gates: Tensor | None


class Mix(NamedTuple):
    """What `prepare` makes of `Logits`: the factors of the composition."""

    weights: Tensor
    """(R, T, NW), 0 where masked."""
    gates: Tensor
    """(R, T, 2): alpha, of the private prompt, and beta, of the sources' sum."""
    used: Tensor
    """(R, N) int32: 1 where any task has a weight for the source."""


class Prompts(NamedTuple):
    """A role's encoded prompts backward, (R, prompts, m, d) each."""

    encoded: Tensor | None
    d_encoded: Tensor | None


class Layer(NamedTuple):
    """A linear layer of one role's encoders, y = x W^T + b, forward."""

    inputs: Tensor | None
    """(R, prompts, m, inner): x."""
    weight: Tensor | None
    """(R, K, outer, inner)."""
    bias: Tensor | None
    """(R, K, outer)."""
    outputs: Tensor | None
    """(R, prompts, m, outer): y; of the hidden layer gelu(y)."""
    slope: Tensor | None
    """Of the hidden layer, where gradients will be needed: gelu'(y)."""


class LayerGrads(NamedTuple):
    """The same layer backward: what goes in, and the gradients (`d_...`) that come out."""

    inputs: Tensor | None
    weight: Tensor | None
    slope: Tensor | None
    """gelu' of what `inputs` are the gelu of; None where `inputs` are tokens."""
    d_outputs: Tensor | None
    d_inputs: Tensor | None
    d_weight: Tensor | None
    d_bias: Tensor | None
