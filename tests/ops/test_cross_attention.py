"""Attention to states that are keys and values at once, by the extension and by the formula."""

from __future__ import annotations

import pytest
import torch

from compt_fast import native
from compt_fast.ops.cross_attention import PaddedStates, shared_states
from compt_fast.ops.varlen import VarlenLayout, cu_seqlens_of
from tests.helpers import large_scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("score", [0, 100, 200])
def test_large_scores_round_as_in_torch(score: float, dtype: torch.dtype) -> None:
    q, s, grad = (x.to(dtype) for x in large_scores.cross_attention(24, 70, 512, score))
    layout = VarlenLayout(cu_seqlens_of([24]), cu_seqlens_of([70]), torch.device("cpu"), 512)
    states = PaddedStates(s, layout.groups)
    out, saved = states.attend(q)
    found = out, states.attend_backward(grad, q, saved), states.grad()
    assert max(large_scores.errors(large_scores.read, (q, s), grad, found)) < large_scores.AT_MOST


@pytest.mark.parametrize("extension", [True, False])
def test_rows_attend_to_their_own_states(extension: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not extension:
        monkeypatch.setattr(native, "load", lambda: False)
    generator = torch.Generator().manual_seed(0)
    queries, keys = [3, 1, 6], [5, 40, 2]
    q, s = (torch.randn(sum(of), 16, generator=generator).requires_grad_() for of in (queries, keys))
    rows = zip(q.split(queries), s.split(keys), strict=True)
    wanted = torch.cat([(row_q @ row_s.T).softmax(1) @ row_s for row_q, row_s in rows])
    grad = torch.randn(wanted.shape, generator=generator)
    wanted_grads = torch.autograd.grad(2 * wanted, (q, s), grad)  # as of two layers
    states = shared_states(s.detach(), cu_seqlens_of(queries), cu_seqlens_of(keys))
    assert isinstance(states, PaddedStates) != extension
    out, saved = states.attend(q.detach())
    torch.testing.assert_close(out, wanted.detach(), rtol=1e-5, atol=1e-5)
    q_grads = [states.attend_backward(grad, q.detach(), saved) for _ in range(2)]
    torch.testing.assert_close(sum(q_grads), wanted_grads[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(states.grad(), wanted_grads[1], rtol=1e-4, atol=1e-5)
