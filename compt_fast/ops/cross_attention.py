"""Cross-attention to states that are keys and values at once, of all heads and layers alike.

Row b's queries `cu_seqlens_q[b]` to `cu_seqlens_q[b+1]` of a packed tensor (Q, d) attend to the states
`cu_seqlens_k[b]` to `cu_seqlens_k[b+1]`: `softmax(q states^T) states`. What serves every layer is made once a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from compt_fast.kernels import moved
from compt_fast.ops.attention import probabilities_of, softmax_backward
from compt_fast.ops.paths import COMPILED, TRITON, kernels, path
from compt_fast.ops.varlen import PaddedGroup, VarlenLayout


class SharedStates(ABC):
    """States (N, d) that serve as the keys and as the values of whatever queries are asked."""

    @abstractmethod
    def attend(self, queries: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`softmax(q states^T) states` (Q, d), and what `attend_backward` needs saved beside the queries."""

    @abstractmethod
    def attend_backward(self, grad: Tensor, queries: Tensor, saved: list[Tensor]) -> Tensor:
        """The gradient of the queries (Q, d); that of the states is added up."""

    @abstractmethod
    def grad(self) -> Tensor:
        """The gradient of the states (N, d) fp32, of all calls of `attend_backward` together."""


def shared_states(states: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor) -> SharedStates:
    """The states of B rows for queries of B rows, by their cumulative lengths (B+1,) int64 on the host."""
    how = path("cross_attention", states)
    if how == COMPILED:
        return CompiledStates(states, cu_seqlens_q, cu_seqlens_k)
    if how == TRITON:
        there = (moved(cu_seqlens, states.device) for cu_seqlens in (cu_seqlens_q, cu_seqlens_k))
        return KernelStates(states, *there, *(int(x.diff().max()) for x in (cu_seqlens_q, cu_seqlens_k)))
    return PaddedStates(states, VarlenLayout(cu_seqlens_q, cu_seqlens_k, states.device, states.shape[1]).groups)


def bounded_states(
    states: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_queries: int,
    max_keys: int,
    group: Callable[[], PaddedGroup],
) -> SharedStates:
    """The same where the cumulative lengths stand on the device alone; `group` are all rows, padded to these bounds."""
    if path("cross_attention", states) == TRITON:
        return KernelStates(states, cu_seqlens_q, cu_seqlens_k, max_queries, max_keys)
    return PaddedStates(states, [group()])


class CompiledStates(SharedStates):
    """By the extension, which packs the states once for all products with them."""

    def __init__(self, states: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor) -> None:
        self._shape = states.shape
        self._arguments = (torch.ops.compt_fast.pack_states(states, cu_seqlens_k), cu_seqlens_q, cu_seqlens_k)
        self._grad: Tensor | None = None

    def attend(self, queries: Tensor) -> tuple[Tensor, list[Tensor]]:
        out, lse = torch.ops.compt_fast.cross_attention(queries, *self._arguments)
        return out, [lse]

    def attend_backward(self, grad: Tensor, queries: Tensor, saved: list[Tensor]) -> Tensor:
        if self._grad is None:
            self._grad = torch.zeros(self._shape, dtype=torch.float32)
        return torch.ops.compt_fast.cross_attention_backward(grad, queries, saved[0], *self._arguments, self._grad)

    def grad(self) -> Tensor:
        assert self._grad is not None
        return self._grad


class KernelStates(SharedStates):
    """By Triton's kernels, without padding."""

    def __init__(
        self, states: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_queries: int, max_keys: int
    ) -> None:
        self._states = states
        self._kernels = kernels("cross_attention")
        self._rows = self._kernels.Rows(cu_seqlens_q, cu_seqlens_k, max_queries, max_keys, states.dtype)
        self._grad: Tensor | None = None

    def attend(self, queries: Tensor) -> tuple[Tensor, list[Tensor]]:
        # The scores alone are not rounded to the trunk's dtype: the softmax would feel it.
        scores = self._kernels.products(queries, self._states, self._rows)
        probabilities = self._kernels.softmax(scores, self._rows)
        return self._kernels.weighted_sum(probabilities, self._states, self._rows), [probabilities]

    def attend_backward(self, grad: Tensor, queries: Tensor, saved: list[Tensor]) -> Tensor:
        if self._grad is None:
            self._grad = torch.zeros(self._states.shape, dtype=torch.float32, device=self._states.device)
        (probabilities,) = saved
        probabilities_grad = self._kernels.products(grad, self._states, self._rows)
        score_grad = self._kernels.softmax_backward(probabilities, probabilities_grad, self._rows)
        self._kernels.add_states_grad(score_grad, probabilities, queries, grad, self._grad, self._rows)
        queries_grad: Tensor = self._kernels.weighted_sum(score_grad, self._states, self._rows)
        return queries_grad

    def grad(self) -> Tensor:
        assert self._grad is not None
        return self._grad


class PaddedStates(SharedStates):
    """The formula, by `groups` of similar rows whose states are padded once."""

    def __init__(self, states: Tensor, groups: Sequence[PaddedGroup]) -> None:
        self._states = states
        self._groups = groups
        self._keys = [group.keys.pad(states[:, None]) for group in groups]
        self._wide_keys = [keys.float() for keys in self._keys]
        self._grads: list[Tensor] = []

    def attend(self, queries: Tensor) -> tuple[Tensor, list[Tensor]]:
        by_head = queries[:, None]
        out, saved = torch.empty_like(by_head), []
        for group, keys, wide in zip(self._groups, self._keys, self._wide_keys, strict=True):
            # The scores' products alone are not rounded to the trunk's dtype: the softmax would feel it.
            probabilities = probabilities_of(group, group.queries.pad(by_head).float(), wide)
            group.queries.store(probabilities.to(keys.dtype) @ keys, out)
            saved.append(probabilities)
        return out[:, 0], saved

    def attend_backward(self, grad: Tensor, queries: Tensor, saved: list[Tensor]) -> Tensor:
        if not self._grads:
            self._grads = [torch.zeros_like(keys[:, 0]) for keys in self._wide_keys]
        by_head, queries_grad = queries[:, None], torch.empty_like(queries[:, None])
        for group, keys, probabilities, states_grad in zip(self._groups, self._keys, saved, self._grads, strict=True):
            out_grad = group.queries.pad(grad[:, None], blank=True)
            score_grad = softmax_backward(probabilities, out_grad @ keys.transpose(2, 3)).to(keys.dtype)
            group.queries.store(score_grad @ keys, queries_grad)
            # A state is a key (by its scores) and a value (by its probabilities).
            shares = torch.cat([score_grad, probabilities.to(keys.dtype)], 2)[:, 0]
            senders = torch.cat([group.queries.pad(by_head), out_grad], 2)[:, 0]
            states_grad += shares.transpose(1, 2) @ senders
        return queries_grad[:, 0]

    def grad(self) -> Tensor:
        grad = torch.zeros(self._states.shape, dtype=torch.float32, device=self._states.device)
        for group, part in zip(self._groups, self._grads, strict=True):
            group.keys.store(part[:, None], grad[:, None])
        return grad
