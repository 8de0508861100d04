"""Encoder states that serve as the keys and the values of queries in their own space.

Two ways with one meaning: row b's queries `q_offsets[b]` to `q_offsets[b+1]` of a packed tensor (Q, d) see the
states `k_offsets[b]` to `k_offsets[b+1]`. Each is made once a batch and serves every layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compt_fast.models.t5.attention import softmax_backward, weights_of
from compt_fast.models.t5.layout import Group


class CompiledKeys:
    """By the extension, which packs the states once for all products with them."""

    def __init__(self, states: Tensor, q_offsets: Tensor, k_offsets: Tensor) -> None:
        self._shape = states.shape
        self._arguments = (torch.ops.compt_fast.pack_states(states, k_offsets), q_offsets, k_offsets)
        self._grad: Tensor | None = None

    def read(self, queries: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`softmax(q states^T) states` (Q, d), and what `read_backward` wants kept."""
        out, lse = torch.ops.compt_fast.cross_attention(queries, *self._arguments)
        return out, [lse]

    def read_backward(self, grad: Tensor, queries: Tensor, kept: list[Tensor]) -> Tensor:
        """The gradient of the queries (Q, d); that of the states is added up."""
        if self._grad is None:
            self._grad = torch.zeros(self._shape, dtype=torch.float32)
        return torch.ops.compt_fast.cross_attention_backward(grad, queries, kept[0], *self._arguments, self._grad)

    def grad(self) -> Tensor:
        """The gradient of the states (N, d) fp32, of all calls of `read_backward` together."""
        assert self._grad is not None
        return self._grad


class PaddedKeys:
    """In PyTorch, by `groups` of similar rows whose states are padded once."""

    def __init__(self, states: Tensor, groups: Sequence[Group]) -> None:
        self._states = states
        self._groups = groups
        self._keys = [group.keys.pad(states[:, None]) for group in groups]
        self._wide_keys = [keys.float() for keys in self._keys]
        self._grads: list[Tensor] = []

    def read(self, queries: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See `CompiledKeys.read`."""
        asked = queries[:, None]
        out, kept = torch.empty_like(asked), []
        for group, keys, wide in zip(self._groups, self._keys, self._wide_keys, strict=True):
            # The scores' products alone are not rounded to the trunk's dtype: the softmax would feel it.
            weights = weights_of(group, group.queries.pad(asked).float(), wide)
            group.queries.store(weights.to(keys.dtype) @ keys, out)
            kept.append(weights)
        return out[:, 0], kept

    def read_backward(self, grad: Tensor, queries: Tensor, kept: list[Tensor]) -> Tensor:
        """See `CompiledKeys.read_backward`."""
        if not self._grads:
            self._grads = [torch.zeros_like(keys[:, 0]) for keys in self._wide_keys]
        asked, asked_grad = queries[:, None], torch.empty_like(queries[:, None])
        for group, keys, weights, states_grad in zip(self._groups, self._keys, kept, self._grads, strict=True):
            out_grad = group.queries.pad(grad[:, None], blank=True)
            score_grad = softmax_backward(weights, out_grad @ keys.transpose(2, 3)).to(keys.dtype)
            group.queries.store(score_grad @ keys, asked_grad)
            # A state is a key (by its scores) and a value (by its weights).
            shares = torch.cat([score_grad, weights.to(keys.dtype)], 2)[:, 0]
            senders = torch.cat([group.queries.pad(asked), out_grad], 2)[:, 0]
            states_grad += shares.transpose(1, 2) @ senders
        return asked_grad[:, 0]

    def grad(self) -> Tensor:
        """See `CompiledKeys.grad`."""
        grad = torch.zeros(self._states.shape, dtype=torch.float32, device=self._states.device)
        for group, part in zip(self._groups, self._grads, strict=True):
            group.keys.store(part[:, None], grad[:, None])
        return grad
