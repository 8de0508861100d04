"""Cross-attention of all decoder layers to one batch's encoder states, two ways.

A target has a few tokens and its source many. With head h's key matrix K_h and value matrix V_h, its
scores are `q (K_h e)^T = (q K_h) e^T`, and its result is `V_h (sum_j p_j e_j)`. `Carried` takes each
query into the encoder's space, lets it attend to the states themselves, which so serve all heads and
layers as keys and as values, and takes back what it attended to. `Projected` computes the keys and
values of every source token in every layer, which pays only where queries are many.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.trunk.attention import attend, attend_backward
from compt_fast.trunk.batch import offsets_of, spread
from compt_fast.trunk.rows import Pairs
from compt_fast.trunk.weights import Weights


class Carried:
    """The encoder's `states` (N, d) of B rows, row b's from `offsets[b]` on, as keys and values."""

    def __init__(self, states: Tensor, offsets: Tensor, weights: Weights) -> None:
        self.states = states
        self.offsets = offsets
        self.weights = weights

    def pairs(self, q_offsets: Tensor) -> Pairs:
        """Row b's queries are `q_offsets[b]` to `q_offsets[b+1]`; to be made once for all layers."""
        # All heads see the same keys: a token's heads are so many queries of one head.
        return Pairs(q_offsets * self.weights.heads, self.offsets, self.states.device)

    def forward(self, q: Tensor, depth: int, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """What layer `depth`'s queries (M, H, c) attend to, (M, H, c); and what `backward` needs."""
        k, v = self._maps(depth)
        keys = self.states[:, None]
        carried = (q.transpose(0, 1) @ k).transpose(0, 1).reshape(-1, 1, k.shape[2])
        attended = attend(carried, keys, keys, pairs).view(len(q), len(k), -1)
        return (attended.transpose(0, 1) @ v.transpose(1, 2)).transpose(0, 1), carried

    def backward(self, grad: Tensor, carried: Tensor, depth: int, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """The gradients of the queries (M, H, c) and of the states (N, d), the latter in fp32."""
        k, v = self._maps(depth)
        keys = self.states[:, None]
        attended_grad = (grad.transpose(0, 1) @ v).transpose(0, 1).reshape(carried.shape)
        carried_grad, *by_use = attend_backward(attended_grad, carried, keys, keys, pairs)
        by_head = carried_grad.view(len(grad), len(k), -1).transpose(0, 1)
        q_grad = (by_head @ k.transpose(1, 2)).transpose(0, 1)
        return q_grad, by_use[0].float().add_(by_use[1])[:, 0]

    def select(self, rows: Tensor) -> Carried:
        """The same of the rows `rows` (n,) int64 alone."""
        tokens, offsets = _tokens_of(rows, self.offsets)
        return Carried(self.states[tokens.to(self.states.device)], offsets, self.weights)

    def _maps(self, depth: int) -> tuple[Tensor, Tensor]:
        """Layer `depth`'s key and value matrices by head, (H, c, d) each."""
        k, v = self.weights.decoder[depth].cross.kv.view(2, self.weights.heads, self.weights.head_dim, -1)
        return k, v


class Projected:
    """The same with keys and values of each layer, computed when first asked for."""

    def __init__(self, states: Tensor, offsets: Tensor, weights: Weights) -> None:
        self.states = states
        self.offsets = offsets
        self.weights = weights
        self._kv: dict[int, Tensor] = {}

    def pairs(self, q_offsets: Tensor) -> Pairs:
        """See `Carried.pairs`."""
        return Pairs(q_offsets, self.offsets, self.states.device)

    def forward(self, q: Tensor, depth: int, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """See `Carried.forward`."""
        if depth not in self._kv:
            kv = F.linear(self.states, self.weights.decoder[depth].cross.kv)
            self._kv[depth] = kv.view(len(kv), 2, self.weights.heads, -1)
        k, v = self._kv[depth].unbind(1)
        return attend(q, k, v, pairs), q

    def backward(self, grad: Tensor, q: Tensor, depth: int, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """See `Carried.backward`."""
        k, v = self._kv.pop(depth).unbind(1)
        q_grad, *kv_grads = attend_backward(grad, q, k, v, pairs)
        kv_grad = torch.stack(kv_grads, 1).flatten(1)
        return q_grad, (kv_grad @ self.weights.decoder[depth].cross.kv).float()

    def select(self, rows: Tensor) -> Projected:
        """See `Carried.select`."""
        tokens, offsets = _tokens_of(rows, self.offsets)
        tokens = tokens.to(self.states.device)
        chosen = Projected(self.states[tokens], offsets, self.weights)
        chosen._kv = {depth: kv[tokens] for depth, kv in self._kv.items()}
        return chosen


def cross_states(states: Tensor, offsets: Tensor, weights: Weights, queries: Tensor) -> Carried | Projected:
    """`Carried` or `Projected`, whichever takes fewer products.

    `queries` (B,) int64 says how many tokens of each row will ask each layer, in all.
    """
    lengths, heads = offsets.diff(), weights.heads
    inner, width = heads * weights.head_dim, states.shape[1]
    asked, seen = int(queries.sum()), int((queries * lengths).sum())
    carrying = asked * inner * width + seen * heads * width
    projecting = int(offsets[-1]) * inner * width + seen * inner
    return (Carried if carrying <= projecting else Projected)(states, offsets, weights)


def _tokens_of(rows: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The packed places of `rows`, one row after the other, and their new offsets."""
    lengths = offsets.diff()[rows]
    return spread(offsets[rows], lengths), offsets_of(lengths)
