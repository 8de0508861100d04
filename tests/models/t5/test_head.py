"""The head's losses and likelihoods, however its tokens are cut into chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.models.t5 import head
from compt_fast.ops.linear import FrozenLinear


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("chunk", [head.CHUNK_ELEMENTS, 100, 1])
def test_token_losses_and_their_gradients(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", chunk)
    states, matrix = normal(7, 6).requires_grad_(), normal(40, 6, seed=1) * 3
    ids = torch.tensor([3, 39, 0, 3, 12, 7, 7])
    wanted = F.cross_entropy(states @ matrix.T, ids, reduction="none")
    losses, grad = head.token_losses(states.detach(), FrozenLinear(matrix), ids, graded=True)
    torch.testing.assert_close(losses, wanted.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(wanted.sum(), states)[0])
    assert head.token_losses(states.detach(), FrozenLinear(matrix), ids, graded=False)[1] is None


@pytest.mark.parametrize("chunk", [head.CHUNK_ELEMENTS, 100])
def test_log_likelihoods_of_tokens_in_any_order(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", chunk)
    states, matrix = normal(5, 6), normal(40, 6, seed=1)
    at, ids = torch.tensor([4, 0, 0, 3, 1, 4]), torch.tensor([1, 2, 39, 0, 5, 6])
    wanted = torch.log_softmax(states @ matrix.T, 1)[at, ids]
    torch.testing.assert_close(head.log_likelihoods(states, FrozenLinear(matrix), at, ids), wanted)
