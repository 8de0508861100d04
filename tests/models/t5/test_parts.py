"""The packed engine's parts, each against the plainest way to compute the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.t5.modeling_t5 import T5Attention

from compt_fast import native
from compt_fast.models.batch import offsets_of
from compt_fast.models.t5 import head
from compt_fast.models.t5 import layout as rows
from compt_fast.models.t5.attention import PositionBias, attend, attend_backward, self_attend, self_attend_backward
from compt_fast.models.t5.decode import Trie
from compt_fast.models.t5.keys import PaddedKeys
from compt_fast.models.t5.layout import Pairs
from compt_fast.models.t5.linear import Frozen
from tests.helpers import large_scores

CPU = torch.device("cpu")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain_attention(q: Tensor, k: Tensor, v: Tensor, pairs: Pairs) -> Tensor:
    """One row after the other."""
    outs = []
    for b in range(len(pairs.q_offsets) - 1):
        own_q, own_k, own_v = (
            x[offsets[b] : offsets[b + 1]].transpose(0, 1)
            for x, offsets in ((q, pairs.q_offsets), (k, pairs.k_offsets), (v, pairs.k_offsets))
        )
        scores = own_q @ own_k.transpose(1, 2)
        if pairs.bias is not None:
            last, longest = scores.shape[2] - scores.shape[1], pairs.bias.shape[1] // 2
            for i in range(scores.shape[1]):
                for j in range(scores.shape[2]):
                    scores[:, i, j] += pairs.bias[:, longest + j - (i + last)]
        outs.append((scores.softmax(-1) @ own_v).transpose(0, 1))
    return torch.cat(outs)


@pytest.mark.parametrize("another_group", [0, 150, rows.ANOTHER_GROUP])
@pytest.mark.parametrize(
    ("queries", "keys", "causal"),
    [
        ([4], [4], None),
        ([5, 5, 5], [5, 5, 5], False),
        ([1, 7, 2, 6, 1], [1, 7, 2, 6, 1], False),
        ([3, 4, 2, 2], [3, 4, 2, 2], True),
        ([1, 1, 1], [4, 4, 4], True),
        ([2, 1, 3, 3], [7, 7, 2, 11], None),
        ([1, 2, 1], [3, 2, 5], False),
    ],
)
def test_attention_and_its_gradients(
    queries: list[int],
    keys: list[int],
    causal: bool | None,
    another_group: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many rows are padded to a common length."""
    monkeypatch.setattr(rows, "ANOTHER_GROUP", another_group)
    bias = None if causal is None else normal(3, 2 * max(keys) + 3, seed=1)
    if bias is not None and causal:
        bias[:, bias.shape[1] // 2 + 1 :] = rows.MASKED
    pairs = Pairs(offsets_of(queries), offsets_of(keys), CPU, 12, bias)
    inputs = [normal(sum(of), 3, 4, seed=seed).requires_grad_() for seed, of in enumerate((queries, keys, keys))]
    wanted = plain_attention(*inputs, pairs)
    grad = normal(*wanted.shape, seed=9)
    wanted_grads = torch.autograd.grad(wanted, inputs, grad)
    bare = [x.detach() for x in inputs]
    torch.testing.assert_close(attend(*bare, pairs), wanted.detach(), rtol=1e-5, atol=1e-6)
    found = attend_backward(grad, *bare, pairs)
    for one, other in zip(found, wanted_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("score", [0, 100, 200])
def test_large_scores_round_as_in_torch(score: float, dtype: torch.dtype) -> None:
    qkv, bias, grad = large_scores.self_attention(70, 2, 64, score)
    pairs = Pairs(offsets_of([70]), offsets_of([70]), CPU, 128, bias)
    leaves = [x.to(dtype) for x in qkv.unbind(1)]
    found = attend(*leaves, pairs), *attend_backward(grad.to(dtype), *leaves, pairs)

    def formula(*leaves: Tensor) -> Tensor:
        return large_scores.attended(torch.stack(leaves, 1), bias)

    assert max(large_scores.errors(formula, leaves, grad.to(dtype), found)) < large_scores.AT_MOST


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("score", [0, 100, 200])
def test_large_scores_with_states_round_as_in_torch(score: float, dtype: torch.dtype) -> None:
    q, s, grad = (x.to(dtype) for x in large_scores.cross_attention(24, 70, 512, score))
    keys = PaddedKeys(s, Pairs(offsets_of([24]), offsets_of([70]), CPU, 512).groups)
    out, kept = keys.read(q)
    found = out, keys.read_backward(grad, q, kept), keys.grad()
    assert max(large_scores.errors(large_scores.read, (q, s), grad, found)) < large_scores.AT_MOST


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("extension", [True, False])
def test_self_attention_by_the_extension_or_without(
    extension: bool, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not extension:
        monkeypatch.setattr(native, "load", lambda: False)
    offsets = offsets_of([5, 1, 40, 17])
    bias = normal(2, 85, seed=1)
    if causal:
        bias[:, 43:] = rows.MASKED
    pairs = Pairs(offsets, offsets, CPU, 16, bias)
    qkv = normal(63, 3, 2, 8).requires_grad_()
    wanted = plain_attention(*qkv.unbind(1), pairs)
    grad = normal(63, 2, 8, seed=2)
    (wanted_grad,) = torch.autograd.grad(wanted, qkv, grad)
    out, kept = self_attend(qkv.detach(), pairs)
    torch.testing.assert_close(out, wanted.detach(), rtol=1e-5, atol=1e-5)
    found = self_attend_backward(grad, qkv.detach(), kept, pairs)
    torch.testing.assert_close(found, wanted_grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (32, 64), (16, 128)])
def test_position_buckets_are_those_of_transformers(bidirectional: bool, buckets: int, furthest: int) -> None:
    table = torch.arange(buckets, dtype=torch.float32)[:, None].expand(-1, 2)
    found = PositionBias(table, bidirectional, furthest).by_distance(600)
    distance = torch.arange(-599, 600)
    wanted = T5Attention._relative_position_bucket(distance, bidirectional, buckets, furthest)
    seen = slice(None) if bidirectional else slice(0, 600)
    assert torch.equal(found[:, seen], wanted.float()[None].expand(2, -1)[:, seen])
    if not bidirectional:
        assert (found[:, 600:] == rows.MASKED).all()


@pytest.mark.parametrize("chunk", [head.CHUNK_ELEMENTS, 100, 1])
def test_token_losses_and_their_gradients(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", chunk)
    states, matrix = normal(7, 6).requires_grad_(), normal(40, 6, seed=1) * 3
    ids = torch.tensor([3, 39, 0, 3, 12, 7, 7])
    wanted = F.cross_entropy(states @ matrix.T, ids, reduction="none")
    losses, grad = head.token_losses(states.detach(), Frozen(matrix), ids, graded=True)
    torch.testing.assert_close(losses, wanted.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(wanted.sum(), states)[0])
    assert head.token_losses(states.detach(), Frozen(matrix), ids, graded=False)[1] is None


@pytest.mark.parametrize("chunk", [head.CHUNK_ELEMENTS, 100])
def test_log_likelihoods_of_tokens_in_any_order(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", chunk)
    states, matrix = normal(5, 6), normal(40, 6, seed=1)
    at, ids = torch.tensor([4, 0, 0, 3, 1, 4]), torch.tensor([1, 2, 39, 0, 5, 6])
    wanted = torch.log_softmax(states @ matrix.T, 1)[at, ids]
    torch.testing.assert_close(head.log_likelihoods(states, Frozen(matrix), at, ids), wanted)


def test_a_trie_holds_every_beginning_once() -> None:
    trie = Trie.of([[7, 8, 1], [7, 9, 1], [7, 1], [1], [7, 8, 1]], start_id=0)
    assert trie.tokens == [0, 7, 8, 9]
    assert trie.paths == [[0], [0, 1], [0, 1, 2], [0, 1, 3]]
    assert trie.steps == [
        [(0, 7), (1, 8), (2, 1)],
        [(0, 7), (1, 9), (3, 1)],
        [(0, 7), (1, 1)],
        [(0, 1)],
        [(0, 7), (1, 8), (2, 1)],
    ]
