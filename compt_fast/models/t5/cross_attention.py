"""Cross-attention of all decoder layers to one batch's encoder states, with absorbed or projected keys and values.

A label has a few tokens and its input many. With head h's key matrix K_h and value matrix V_h, its
scores are `q (K_h e)^T = (q K_h) e^T`, and its result is `V_h (sum_j p_j e_j)`. Absorbed, the matrices move to the
queries' side: each query is taken into the encoder's space, attends to the states themselves, which so serve
all heads and layers as keys and as values, and what it attended to is taken back. Projected, the keys and
values of every input token are computed in every layer, which pays only where queries are many.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.models.t5.weights import Weights
from compt_fast.ops.attention import attend, attend_backward
from compt_fast.ops.cross_attention import SharedStates, shared_states
from compt_fast.ops.linear import product_by_head
from compt_fast.ops.varlen import VarlenLayout, cu_seqlens_of, ranges

CrossAttentionSaved = tuple[Tensor, list[Tensor]]
"""The queries as they attended; and, absorbed, what their attention saved."""


class CrossAttention(ABC):
    """Attention of decoder tokens of B rows to the encoder's `states` (N, d).

    Row b's tokens are `cu_seqlens_q[b]` to `cu_seqlens_q[b+1]` of all M, its states the same of `cu_seqlens_k`;
    both are (B+1,) int64 on the host.
    """

    def __init__(self, states: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, weights: Weights) -> None:
        self.states = states
        self.cu_seqlens_q = cu_seqlens_q
        self.cu_seqlens_k = cu_seqlens_k
        self.weights = weights

    @abstractmethod
    def forward(self, q: Tensor, depth: int) -> tuple[Tensor, CrossAttentionSaved]:
        """What layer `depth`'s queries (M, H, c) attend to, (M, H, c); and what `backward` needs saved."""

    @abstractmethod
    def backward(self, grad: Tensor, saved: CrossAttentionSaved, depth: int) -> Tensor:
        """The gradient of the queries (M, H, c); that of the states is added to the other layers'."""

    @abstractmethod
    def states_grad(self) -> Tensor:
        """The gradient of the states (N, d) fp32, once the backward of every layer has been called."""

    def select(self, rows: Tensor) -> Self:
        """The same of some rows alone, by their numbers (n,) int64 on the host."""
        lengths = self.cu_seqlens_k.diff()[rows]
        tokens = ranges(self.cu_seqlens_k[rows], lengths).to(self.states.device)
        cu_seqlens_q = cu_seqlens_of(self.cu_seqlens_q.diff()[rows])
        return self._of(tokens, cu_seqlens_q, cu_seqlens_of(lengths))

    def _of(self, tokens: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor) -> Self:
        return type(self)(self.states[tokens], cu_seqlens_q, cu_seqlens_k, self.weights)


class AbsorbedCrossAttention(CrossAttention):
    """The states themselves are keys and values, of all heads alike: a token asks once for each head.

    With the `shared` states of such queries, the heads' and the rows', the cumulative lengths are not looked at.
    """

    def __init__(
        self,
        states: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        weights: Weights,
        shared: SharedStates | None = None,
    ) -> None:
        super().__init__(states, cu_seqlens_q, cu_seqlens_k, weights)
        self._shared = shared or shared_states(states, cu_seqlens_q * weights.heads, cu_seqlens_k)

    def forward(self, q: Tensor, depth: int) -> tuple[Tensor, CrossAttentionSaved]:
        matrices = self.weights.decoder[depth].cross.absorbed
        if matrices is not None:
            absorbed = matrices.to_states(q)
        else:
            k, v = self._matrices(depth)
            absorbed = product_by_head(q, k, transposed=True)
        absorbed = absorbed.flatten(0, 1).contiguous()
        attended, saved = self._shared.attend(absorbed)
        by_head = attended.view(len(q), self.weights.heads, -1)
        return matrices.from_states(by_head) if matrices is not None else product_by_head(by_head, v), (absorbed, saved)

    def backward(self, grad: Tensor, saved: CrossAttentionSaved, depth: int) -> Tensor:
        k, v = self._matrices(depth)
        attended_grad = product_by_head(grad, v, transposed=True).flatten(0, 1).contiguous()
        absorbed_grad = self._shared.attend_backward(attended_grad, *saved)
        return product_by_head(absorbed_grad.view(len(grad), len(k), -1), k)

    def states_grad(self) -> Tensor:
        return self._shared.grad()

    def _matrices(self, depth: int) -> tuple[Tensor, Tensor]:
        """Layer `depth`'s key and value matrices by head, (H, c, d) each."""
        k, v = self.weights.decoder[depth].cross.kv.view(2, self.weights.heads, self.weights.head_dim, -1)
        return k, v


class ProjectedCrossAttention(CrossAttention):
    """Keys and values of each layer, computed when first asked for."""

    def __init__(self, states: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, weights: Weights) -> None:
        super().__init__(states, cu_seqlens_q, cu_seqlens_k, weights)
        self._layout = VarlenLayout(cu_seqlens_q, cu_seqlens_k, states.device, weights.inner)
        self._kv: dict[int, Tensor] = {}
        self._grad: Tensor | None = None

    def forward(self, q: Tensor, depth: int) -> tuple[Tensor, CrossAttentionSaved]:
        if depth not in self._kv:
            kv = F.linear(self.states, self.weights.decoder[depth].cross.kv)
            self._kv[depth] = kv.view(len(kv), 2, self.weights.heads, -1)
        k, v = self._kv[depth].unbind(1)
        return attend(q, k, v, self._layout), (q, [])

    def backward(self, grad: Tensor, saved: CrossAttentionSaved, depth: int) -> Tensor:
        k, v = self._kv.pop(depth).unbind(1)
        q_grad, *kv_grads = attend_backward(grad, saved[0], k, v, self._layout)
        kv_grad = torch.stack(kv_grads, 1).flatten(1)
        layer_grad = (kv_grad @ self.weights.decoder[depth].cross.kv).float()
        self._grad = layer_grad if self._grad is None else self._grad.add_(layer_grad)
        return q_grad

    def states_grad(self) -> Tensor:
        assert self._grad is not None
        return self._grad

    def _of(self, tokens: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor) -> Self:
        chosen = super()._of(tokens, cu_seqlens_q, cu_seqlens_k)
        chosen._kv = {depth: kv[tokens] for depth, kv in self._kv.items()}
        return chosen


def cross_attention_for(
    states: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, weights: Weights, times: int = 1
) -> CrossAttention:
    """Absorbed or projected, whichever takes fewer products if each query asks `times` times.

    Both round otherwise, in int16 so much that an answer could depend on what shares its batch: there all is absorbed.
    """
    absorbed = absorbs(cu_seqlens_q.diff() * times, cu_seqlens_k.diff(), weights)
    kind = AbsorbedCrossAttention if absorbed else ProjectedCrossAttention
    return kind(states, cu_seqlens_q, cu_seqlens_k, weights)


def absorbs(queries: Tensor, keys: Tensor, weights: Weights) -> bool:
    """Whether rows with so many `queries` and `keys` (B,) each are computed with absorbed keys and values. Where that
    is so of some rows and of others, it is so of all of them.
    """
    count, pairs = int(queries.sum()), int((queries * keys).sum())
    in_int16 = weights.decoder[0].cross.absorbed is not None
    return in_int16 or absorbing_pays(count, pairs, int(keys.sum()), weights)


def absorbing_pays(queries: int, pairs: int, states: int, weights: Weights) -> bool:
    """Whether absorbed keys and values take no more products than projected ones, for so many `queries`, `pairs` of
    query and key, and `states`, all rows' together.
    """
    inner, width = weights.inner, weights.embedding.shape[1]
    absorbed = queries * inner * width + pairs * weights.heads * width
    return absorbed <= states * inner * width + pairs * inner
