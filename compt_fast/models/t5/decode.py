"""Greedy answers and the likelihood of given ones, behind encoder states that are computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from compt_fast.kernels import fetched
from compt_fast.models.t5.cross_attention import CrossAttention
from compt_fast.models.t5.decoder import decode
from compt_fast.models.t5.head import log_likelihoods
from compt_fast.models.t5.weights import Weights
from compt_fast.ops.attention import attend
from compt_fast.ops.newest_attention import attend_newest
from compt_fast.ops.paths import COMPILED, path
from compt_fast.ops.varlen import VarlenLayout, cu_seqlens_of, equal_cu_seqlens

ROOM = 16  # tokens that a row's cache has room for at first
LOOK = 16  # tokens after which the host looks whether all answers have ended, where it waits for nothing else (ours)


class _KeyValueCache:
    """The keys and values of what the rows have written so far: (n, t, 2, H, c) by layer."""

    def __init__(self, weights: Weights, max_new_tokens: int) -> None:
        self.bias = weights.decoder_bias.by_distance(max_new_tokens)
        self.work = weights.inner
        self.layers: dict[int, Tensor] = {}
        self.layout: VarlenLayout | None = None

    def step(self, rows: int, written: int) -> None:
        """Prepare for the token number `written`, from 1, of `rows` rows."""
        keys = equal_cu_seqlens(rows, written)
        self.layout = VarlenLayout(equal_cu_seqlens(rows, 1), keys, self.bias.device, self.work, self.bias)

    def select(self, rows: Tensor) -> None:
        """Keep only `rows` (n,) int64."""
        for depth, kv in self.layers.items():
            self.layers[depth] = kv[rows]

    def __call__(self, qkv: Tensor, depth: int) -> tuple[Tensor, tuple[()]]:
        """Attention of the newest token of each row, (n, 3, H, c) -> (n, H, c)."""
        assert self.layout is not None
        newest = qkv[:, None, 1:]
        kv = torch.cat([self.layers[depth], newest], 1) if depth in self.layers else newest
        self.layers[depth] = kv
        k, v = kv.flatten(0, 1).unbind(1)
        return attend(qkv[:, 0], k, v, self.layout), ()


class _RoomyCache(_KeyValueCache):
    """The same in memory with room for more, into which the newest keys and values are written: (n, room, 2, H, c) by
    layer.
    """

    def __init__(self, weights: Weights, max_new_tokens: int) -> None:
        super().__init__(weights, max_new_tokens)
        self._room = min(ROOM, max_new_tokens)

    def step(self, rows: int, written: int) -> None:
        self.before = written - 1

    def __call__(self, qkv: Tensor, depth: int) -> tuple[Tensor, tuple[()]]:
        kv = self.layers.get(depth)
        if kv is None:
            kv = qkv.new_empty(len(qkv), self._room, *qkv[0, 1:].shape)
        elif kv.shape[1] == self.before:
            kv = torch.cat([kv, torch.empty_like(kv)], 1)
        self.layers[depth] = kv
        return attend_newest(qkv, kv, self.before, self.bias), ()


def greedy(cross_attention: CrossAttention, start_id: int, end_id: int, max_new_tokens: int) -> list[list[int]]:
    """Each row's likeliest next token, again and again up to `end_id`, which is left out.

    `cross_attention` has one token a row. A row that has ended takes part in no further step.
    """
    weights, device = cross_attention.weights, cross_attention.states.device
    rows = list(range(len(cross_attention.cu_seqlens_k) - 1))
    answers: list[list[int]] = [[] for _ in rows]
    compiled = path("newest_attention", weights.embedding) == COMPILED
    cache = (_RoomyCache if compiled else _KeyValueCache)(weights, max(1, max_new_tokens))
    ids = torch.full((len(rows),), start_id, device=device)
    for written in range(1, max_new_tokens + 1):
        cache.step(len(rows), written)
        ids = weights.likeliest(decode(ids, cache, cross_attention))
        tokens = ids.tolist()
        going = [i for i, token in enumerate(tokens) if token != end_id]
        for i in going:
            answers[rows[i]].append(tokens[i])
        if not going or written == max_new_tokens:
            break
        if len(going) < len(rows):
            chosen = torch.tensor(going)
            cross_attention, rows = cross_attention.select(chosen), [rows[i] for i in going]
            chosen = chosen.to(device)
            cache.select(chosen)
            ids = ids[chosen]
    return answers


def begin_greedy(
    cross_attention: CrossAttention, start_id: int, end_id: int, max_new_tokens: int
) -> Callable[[], list[list[int]]]:
    """What gives the result of `greedy`, on a device that the host does not wait for: not for a token, and for all of
    them when this is called.

    All rows write on until the last one has ended, for which the host looks every `LOOK` tokens: labels are shorter.
    """
    device, rows = cross_attention.states.device, len(cross_attention.cu_seqlens_k) - 1
    cache = _RoomyCache(cross_attention.weights, max(1, max_new_tokens))
    tokens = torch.empty(1 + max_new_tokens, rows, dtype=torch.int64, device=device)
    tokens[0] = start_id
    written = 0
    while written < max_new_tokens:
        last, written = written, min(written + LOOK, max_new_tokens)
        _write(tokens[last : written + 1], last, cache, cross_attention)
        if written < max_new_tokens and bool((tokens[1 : written + 1] == end_id).any(0).all()):
            break
    found = fetched(tokens[1 : written + 1])
    return lambda: [answer[: (*answer, end_id).index(end_id)] for answer in found().T.tolist()]


def _write(tokens: Tensor, before: int, cache: _RoomyCache, cross_attention: CrossAttention) -> None:
    """Fill `tokens` (n + 1, B) behind the first, of which each row has written `before`; nothing here waits."""
    for step, ids in enumerate(tokens[:-1].unbind(), start=1):
        cache.step(len(ids), before + step)
        tokens[step] = cross_attention.weights.likeliest(decode(ids, cache, cross_attention))


@dataclass(frozen=True)
class Trie:
    """All beginnings of some candidates, each once: so many nodes, the first being the bare start.

    `tokens[n]` is what node n adds to its parent's beginning, `paths[n]` its ancestors from the first
    node to itself. `steps[i]` lists candidate i's tokens, each with the node that it follows.
    """

    tokens: list[int]
    paths: list[list[int]]
    steps: list[list[tuple[int, int]]]

    @classmethod
    def of(cls, candidates: Sequence[Sequence[int]], start_id: int) -> Trie:
        """The trie of token ids, each candidate with its </s>; ValueError for an empty one."""
        tokens, paths, steps = [start_id], [[0]], []
        children: dict[tuple[int, int], int] = {}
        for candidate in candidates:
            if not candidate:
                raise ValueError("a candidate needs at least one token, its </s>")
            node, candidate_steps = 0, []
            for token in candidate[:-1]:
                candidate_steps.append((node, token))
                child = children.setdefault((node, token), len(tokens))
                if child == len(tokens):
                    tokens.append(token)
                    paths.append([*paths[node], child])
                node = child
            steps.append([*candidate_steps, (node, candidate[-1])])
        return cls(tokens, paths, steps)


class _Ancestors:
    """Attention of each node of some tries to its ancestors and itself.

    `paths` are the nodes', for some rows at a time, whose nodes attend in groups of their own.
    """

    def __init__(self, paths: Sequence[Sequence[Sequence[int]]], weights: Weights) -> None:
        device = weights.embedding.device
        self._parts = []
        first = 0
        for own in paths:
            lengths = [len(path) for path in own]
            bias = weights.decoder_bias.by_distance(max(lengths))
            ends = equal_cu_seqlens(len(own), 1)
            layout = VarlenLayout(ends, cu_seqlens_of(lengths), device, weights.inner, bias)
            places = torch.tensor(list(chain.from_iterable(own)), device=device)
            self._parts.append((slice(first, first + len(own)), places, layout))
            first += len(own)

    def __call__(self, qkv: Tensor, depth: int) -> tuple[Tensor, tuple[()]]:
        found = []
        for nodes, places, layout in self._parts:
            k, v = qkv[:, 1:][places].unbind(1)
            found.append(attend(qkv[nodes, 0], k, v, layout))
        return torch.cat(found) if len(found) > 1 else found[0], ()


def rank(cross_attention: CrossAttention, tries: Sequence[Trie], parts: Sequence[slice]) -> Tensor:
    """The log-likelihood in nats of all candidates, one trie a row, row after row: fp32 on the host.

    `cross_attention` has a row's nodes as its tokens. `parts` of the rows, one after the other, are computed as each
    would be alone, if the products of a token do not depend on how many there are.
    """
    weights = cross_attention.weights
    device = cross_attention.states.device
    rows = list(zip(cross_attention.cu_seqlens_q.tolist(), tries, strict=False))
    paths = [[[first + node for node in path] for first, trie in rows[part] for path in trie.paths] for part in parts]
    tokens = torch.tensor([token for trie in tries for token in trie.tokens], device=device)
    out = decode(tokens, _Ancestors(paths, weights), cross_attention)
    steps = [[(first + node, token) for node, token in candidate] for first, trie in rows for candidate in trie.steps]
    at, ids = torch.tensor(list(chain.from_iterable(steps))).unbind(1)
    token_scores = log_likelihoods(out, weights.head, at, ids)
    lengths = torch.tensor([len(candidate) for candidate in steps])
    return torch.segment_reduce(token_scores, "sum", lengths=lengths)
