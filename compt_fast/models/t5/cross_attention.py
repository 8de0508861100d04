"""Cross-attention of all decoder layers to one batch's encoder states, two ways.

A target has a few tokens and its source many. With head h's key matrix K_h and value matrix V_h, its
scores are `q (K_h e)^T = (q K_h) e^T`, and its result is `V_h (sum_j p_j e_j)`. `Carried` takes each
query into the encoder's space, lets it attend to the states themselves, which so serve all heads and
layers as keys and as values, and takes back what it attended to. `Projected` computes the keys and
values of every source token in every layer, which pays only where queries are many.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.models.batch import offsets_of, spread
from compt_fast.models.t5.attention import attend, attend_backward
from compt_fast.models.t5.keys import CompiledKeys, PaddedKeys
from compt_fast.models.t5.layout import Group, Pairs
from compt_fast.models.t5.linear import Frozen, has_own_products
from compt_fast.models.t5.weights import Weights
from compt_fast.ops.rowwise import compiled

FEW = 8  # tokens

CrossKept = tuple[Tensor, list[Tensor]]
"""The queries as they attended; and, when carried, what their reading wants kept."""


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
    """The states themselves are keys and values, of all heads alike: a token asks once for each head.

    With `groups` of such queries and keys, the rows' and the heads', the offsets are not looked at.
    """

    def __init__(
        self,
        states: Tensor,
        q_offsets: Tensor,
        k_offsets: Tensor,
        weights: Weights,
        groups: Sequence[Group] | None = None,
    ) -> None:
        super().__init__(states, q_offsets, k_offsets, weights)
        self._keys: CompiledKeys | PaddedKeys
        asked = q_offsets * weights.heads
        if groups is not None:
            self._keys = PaddedKeys(states, groups)
        elif compiled(states):
            self._keys = CompiledKeys(states, asked, k_offsets)
        else:
            self._keys = PaddedKeys(states, Pairs(asked, k_offsets, states.device, states.shape[1]).groups)

    def forward(self, q: Tensor, depth: int) -> tuple[Tensor, CrossKept]:
        k, v = self._maps(depth)
        carried = _by_head(q, k, back=True).flatten(0, 1).contiguous()
        attended, kept = self._keys.read(carried)
        return _by_head(attended.view(len(q), len(k), -1), v), (carried, kept)

    def backward(self, grad: Tensor, kept: CrossKept, depth: int) -> Tensor:
        k, v = self._maps(depth)
        carried_grad = self._keys.read_backward(_by_head(grad, v, back=True).flatten(0, 1).contiguous(), *kept)
        return _by_head(carried_grad.view(len(grad), len(k), -1), k)

    def states_grad(self) -> Tensor:
        return self._keys.grad()

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
    asked, seen = int(queries.sum()), int((queries * keys).sum())
    kind = Carried if carrying_pays(asked, seen, int(k_offsets[-1]), weights) else Projected
    return kind(states, q_offsets, k_offsets, weights)


def carrying_pays(asked: int, seen: int, states: int, weights: Weights) -> bool:
    """Whether `Carried` takes no more products than `Projected`, for `asked` queries that see `seen` keys, all rows'
    together, of so many `states`.
    """
    inner, width = weights.inner, weights.embedding.shape[1]
    carrying = asked * inner * width + seen * weights.heads * width
    return carrying <= states * inner * width + seen * inner


def _by_head(x: Tensor, maps: Tensor, *, back: bool = False) -> Tensor:
    """Each token's products with the heads' matrices W (H, c, d): `W x`, (M, H, d) -> (M, H, c), or `back` `W^T x`.

    What a row gives must not depend on how many there are. A batched product of torch's does not promise that: fewer
    than four rows it multiplies in another order, so that a few are filled up, and on some processors any number.
    """
    if has_own_products(x):
        heads = zip(x.transpose(0, 1).contiguous(), map(Frozen, maps), strict=True)
        return torch.stack([own.back(part) if back else own(part) for part, own in heads], dim=1)
    few = max(0, FEW - len(x))
    wide = F.pad(x, (0, 0, 0, 0, 0, few)) if few and x.device.type == "cpu" else x
    return (wide.transpose(0, 1) @ (maps if back else maps.transpose(1, 2))).transpose(0, 1)[: len(x)]
