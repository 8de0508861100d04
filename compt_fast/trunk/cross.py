"""Cross-attention of all decoder layers to one batch's encoder states, two ways.

A target has a few tokens and its source many. With head h's key matrix K_h and value matrix V_h, its
scores are `q (K_h e)^T = (q K_h) e^T`, and its result is `V_h (sum_j p_j e_j)`. `Carried` takes each
query into the encoder's space, lets it attend to the states themselves, which so serve all heads and
layers as keys and as values, and takes back what it attended to. `Projected` computes the keys and
values of every source token in every layer, which pays only where queries are many.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.trunk.attention import attend, attend_backward, softmax_backward, weights_of
from compt_fast.trunk.batch import offsets_of, spread
from compt_fast.trunk.rows import Pairs
from compt_fast.trunk.weights import Weights

CrossKept = tuple[Tensor, list[Tensor]]
"""The queries as they attended; and, when carried, each group's attention weights."""


class Reading(ABC):
    """Decoder tokens of B rows that read the encoder's `states` (N, d).

    Row b's tokens are `q_offsets[b]` to `q_offsets[b+1]` of all M, its states the same of `k_offsets`;
    both are (B+1,) int64 on the host.
    """

    def __init__(self, states: Tensor, q_offsets: Tensor, k_offsets: Tensor, weights: Weights) -> None:
        self.states = states
        self.q_offsets = q_offsets
        self.k_offsets = k_offsets
        self.weights = weights

    @abstractmethod
    def forward(self, q: Tensor, depth: int) -> tuple[Tensor, CrossKept]:
        """What layer `depth`'s queries (M, H, c) attend to, (M, H, c); and what `backward` needs."""

    @abstractmethod
    def backward(self, grad: Tensor, kept: CrossKept, depth: int) -> Tensor:
        """The gradient of the queries (M, H, c); that of the states is added to the other layers'."""

    @abstractmethod
    def states_grad(self) -> Tensor:
        """The gradient of the states (N, d) fp32, once the backward of every layer has been called."""

    def select(self, rows: Tensor) -> Self:
        """The same of some rows alone, by their numbers (n,) int64 on the host."""
        lengths = self.k_offsets.diff()[rows]
        tokens = spread(self.k_offsets[rows], lengths).to(self.states.device)
        q_offsets = offsets_of(self.q_offsets.diff()[rows])
        return self._of(tokens, q_offsets, offsets_of(lengths))

    def _of(self, tokens: Tensor, q_offsets: Tensor, k_offsets: Tensor) -> Self:
        return type(self)(self.states[tokens], q_offsets, k_offsets, self.weights)


class Carried(Reading):
    """The states themselves are keys and values."""

    def __init__(self, states: Tensor, q_offsets: Tensor, k_offsets: Tensor, weights: Weights) -> None:
        super().__init__(states, q_offsets, k_offsets, weights)
        # All heads see the same keys: a token's heads are so many queries of one head.
        self._pairs = Pairs(q_offsets * weights.heads, k_offsets, states.device, states.shape[1])
        self._keys = [group.keys.pad(states[:, None]) for group in self._pairs.groups]
        self._wide_keys = [keys.float() for keys in self._keys]
        self._grads: list[Tensor] = []

    def forward(self, q: Tensor, depth: int) -> tuple[Tensor, CrossKept]:
        k, v = self._maps(depth)
        carried = _tokens_first(q.transpose(0, 1) @ k)
        attended = torch.empty_like(carried)
        kept = []
        for group, keys, wide in zip(self._pairs.groups, self._keys, self._wide_keys, strict=True):
            # The scores' products alone are not rounded to the trunk's dtype: the softmax would feel it.
            weights = weights_of(group, group.queries.pad(carried).float(), wide)
            group.queries.store(weights.to(keys.dtype) @ keys, attended)
            kept.append(weights)
        out = attended.view(len(q), len(k), -1).transpose(0, 1) @ v.transpose(1, 2)
        return out.transpose(0, 1), (carried, kept)

    def backward(self, grad: Tensor, kept: CrossKept, depth: int) -> Tensor:
        k, v = self._maps(depth)
        carried, kept_weights = kept
        if not self._grads:
            self._grads = [torch.zeros_like(keys[:, 0]) for keys in self._wide_keys]
        attended_grad = _tokens_first(grad.transpose(0, 1) @ v)
        carried_grad = torch.empty_like(carried)
        for i, (group, keys) in enumerate(zip(self._pairs.groups, self._keys, strict=True)):
            weights, out_grad = kept_weights[i], group.queries.pad(attended_grad, blank=True)
            score_grad = softmax_backward(weights, out_grad @ keys.transpose(2, 3)).to(keys.dtype)
            group.queries.store(score_grad @ keys, carried_grad)
            # A state is a key (by its scores) and a value (by its weights).
            shares = torch.cat([score_grad, weights.to(keys.dtype)], 2)[:, 0]
            senders = torch.cat([group.queries.pad(carried), out_grad], 2)[:, 0]
            self._grads[i] += shares.transpose(1, 2) @ senders
        by_head = carried_grad.view(len(grad), len(k), -1).transpose(0, 1)
        return (by_head @ k.transpose(1, 2)).transpose(0, 1)

    def states_grad(self) -> Tensor:
        grad = torch.zeros(self.states.shape, device=self.states.device)
        for group, part in zip(self._pairs.groups, self._grads, strict=True):
            group.keys.store(part[:, None], grad[:, None])
        return grad

    def _maps(self, depth: int) -> tuple[Tensor, Tensor]:
        """Layer `depth`'s key and value matrices by head, (H, c, d) each."""
        k, v = self.weights.decoder[depth].cross.kv.view(2, self.weights.heads, self.weights.head_dim, -1)
        return k, v


class Projected(Reading):
    """Keys and values of each layer, computed when first asked for."""

    def __init__(self, states: Tensor, q_offsets: Tensor, k_offsets: Tensor, weights: Weights) -> None:
        super().__init__(states, q_offsets, k_offsets, weights)
        self._pairs = Pairs(q_offsets, k_offsets, states.device, weights.inner)
        self._kv: dict[int, Tensor] = {}
        self._grad: Tensor | None = None

    def forward(self, q: Tensor, depth: int) -> tuple[Tensor, CrossKept]:
        if depth not in self._kv:
            kv = F.linear(self.states, self.weights.decoder[depth].cross.kv)
            self._kv[depth] = kv.view(len(kv), 2, self.weights.heads, -1)
        k, v = self._kv[depth].unbind(1)
        return attend(q, k, v, self._pairs), (q, [])

    def backward(self, grad: Tensor, kept: CrossKept, depth: int) -> Tensor:
        k, v = self._kv.pop(depth).unbind(1)
        q_grad, *kv_grads = attend_backward(grad, kept[0], k, v, self._pairs)
        kv_grad = torch.stack(kv_grads, 1).flatten(1)
        grad_here = (kv_grad @ self.weights.decoder[depth].cross.kv).float()
        self._grad = grad_here if self._grad is None else self._grad.add_(grad_here)
        return q_grad

    def states_grad(self) -> Tensor:
        assert self._grad is not None
        return self._grad

    def _of(self, tokens: Tensor, q_offsets: Tensor, k_offsets: Tensor) -> Self:
        chosen = super()._of(tokens, q_offsets, k_offsets)
        chosen._kv = {depth: kv[tokens] for depth, kv in self._kv.items()}
        return chosen


def read(states: Tensor, q_offsets: Tensor, k_offsets: Tensor, weights: Weights, times: int = 1) -> Reading:
    """`Carried` or `Projected`, whichever takes fewer products if each query asks `times` times."""
    queries, keys = q_offsets.diff() * times, k_offsets.diff()
    inner, width = weights.inner, states.shape[1]
    asked, seen = int(queries.sum()), int((queries * keys).sum())
    carrying = asked * inner * width + seen * weights.heads * width
    projecting = int(k_offsets[-1]) * inner * width + seen * inner
    kind = Carried if carrying <= projecting else Projected
    return kind(states, q_offsets, k_offsets, weights)


def _tokens_first(by_head: Tensor) -> Tensor:
    """(H, M, d) as queries of one head, (M H, 1, d)."""
    return by_head.transpose(0, 1).reshape(-1, 1, by_head.shape[2])
