"""Attention of packed rows against one row after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compt_fast import native
from compt_fast.ops import varlen
from compt_fast.ops.attention import attend, attend_backward, self_attend, self_attend_backward
from compt_fast.ops.varlen import MASKED, VarlenLayout, cu_seqlens_of
from tests.helpers import large_scores

CPU = torch.device("cpu")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain_attention(q: Tensor, k: Tensor, v: Tensor, layout: VarlenLayout) -> Tensor:
    """One row after the other."""
    outs = []
    for b in range(len(layout.cu_seqlens_q) - 1):
        row_q, row_k, row_v = (
            x[cu_seqlens[b] : cu_seqlens[b + 1]].transpose(0, 1)
            for x, cu_seqlens in ((q, layout.cu_seqlens_q), (k, layout.cu_seqlens_k), (v, layout.cu_seqlens_k))
        )
        scores = row_q @ row_k.transpose(1, 2)
        if layout.bias is not None:
            last, reach = scores.shape[2] - scores.shape[1], layout.bias.shape[1] // 2
            for i in range(scores.shape[1]):
                for j in range(scores.shape[2]):
                    scores[:, i, j] += layout.bias[:, reach + j - (i + last)]
        outs.append((scores.softmax(-1) @ row_v).transpose(0, 1))
    return torch.cat(outs)


@pytest.mark.parametrize("another_group", [0, 150, varlen.ANOTHER_GROUP])
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
    monkeypatch.setattr(varlen, "ANOTHER_GROUP", another_group)
    bias = None if causal is None else normal(3, 2 * max(keys) + 3, seed=1)
    if bias is not None and causal:
        bias[:, bias.shape[1] // 2 + 1 :] = MASKED
    layout = VarlenLayout(cu_seqlens_of(queries), cu_seqlens_of(keys), CPU, 12, bias)
    inputs = [normal(sum(of), 3, 4, seed=seed).requires_grad_() for seed, of in enumerate((queries, keys, keys))]
    wanted = plain_attention(*inputs, layout)
    grad = normal(*wanted.shape, seed=9)
    wanted_grads = torch.autograd.grad(wanted, inputs, grad)
    bare = [x.detach() for x in inputs]
    torch.testing.assert_close(attend(*bare, layout), wanted.detach(), rtol=1e-5, atol=1e-6)
    found = attend_backward(grad, *bare, layout)
    for one, other in zip(found, wanted_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("score", [0, 100, 200])
def test_large_scores_round_as_in_torch(score: float, dtype: torch.dtype) -> None:
    qkv, bias, grad = large_scores.self_attention(70, 2, 64, score)
    layout = VarlenLayout(cu_seqlens_of([70]), cu_seqlens_of([70]), CPU, 128, bias)
    leaves = [x.to(dtype) for x in qkv.unbind(1)]
    found = attend(*leaves, layout), *attend_backward(grad.to(dtype), *leaves, layout)

    def formula(*leaves: Tensor) -> Tensor:
        return large_scores.attended(torch.stack(leaves, 1), bias)

    assert max(large_scores.errors(formula, leaves, grad.to(dtype), found)) < large_scores.AT_MOST


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("extension", [True, False])
def test_self_attention_by_the_extension_or_without(
    extension: bool, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not extension:
        monkeypatch.setattr(native, "load", lambda: False)
    cu_seqlens = cu_seqlens_of([5, 1, 40, 17])
    bias = normal(2, 85, seed=1)
    if causal:
        bias[:, 43:] = MASKED
    layout = VarlenLayout(cu_seqlens, cu_seqlens, CPU, 16, bias)
    qkv = normal(63, 3, 2, 8).requires_grad_()
    wanted = plain_attention(*qkv.unbind(1), layout)
    grad = normal(63, 2, 8, seed=2)
    (wanted_grad,) = torch.autograd.grad(wanted, qkv, grad)
    out, saved = self_attend(qkv.detach(), layout)
    torch.testing.assert_close(out, wanted.detach(), rtol=1e-5, atol=1e-5)
    found = self_attend_backward(grad, qkv.detach(), saved, layout)
    torch.testing.assert_close(found, wanted_grad, rtol=1e-4, atol=1e-5)
