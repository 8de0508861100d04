"""The language model's head: only where a label stands, and only a chunk of logits at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from compt_fast.ops.linear import FrozenLinear

CHUNK_ELEMENTS = 1 << 24  # logits that exist at a time (ours): 64 MiB in fp32


def token_losses(states: Tensor, head: FrozenLinear, ids: Tensor, graded: bool) -> tuple[Tensor, Tensor | None]:
    """The cross-entropy in nats of `ids` (M,) int64 under the `head` W (V, d) of `states` (M, d): (M,) fp32.

    If `graded`, also each loss's gradient with respect to its state, (M, d) in states' dtype: the
    logits need not be saved, nor computed again, for a backward. The softmax is taken in fp32.
    """
    losses = torch.empty(len(ids), dtype=torch.float32, device=states.device)
    states_grad = torch.empty_like(states) if graded else None
    for part in chunks(len(ids), len(head.weight)):
        scores = torch.log_softmax(head(states[part]), 1, dtype=torch.float32)
        labels = ids[part, None]
        losses[part] = -scores.gather(1, labels)[:, 0]
        if states_grad is not None:
            # d loss / d logits: the softmax, less 1 at the label.
            logits_grad = scores.exp_()
            logits_grad.scatter_add_(1, labels, logits_grad.new_full(labels.shape, -1.0))
            states_grad[part] = head.backward(logits_grad.to(states.dtype))
    return losses, states_grad


def log_likelihoods(states: Tensor, head: FrozenLinear, at: Tensor, ids: Tensor) -> Tensor:
    """The log-probability in nats of token `ids[i]` after state `at[i]`: (n,) fp32 on the host.

    `states` (M, d); `at` and `ids` (n,) int64 on the host, in any order.
    """
    scored = torch.empty(len(ids), dtype=torch.float32)
    for part in chunks(len(states), len(head.weight)):
        here = torch.nonzero((at >= part.start) & (at < part.stop))[:, 0]
        scores = torch.log_softmax(head(states[part]), 1, dtype=torch.float32)
        place, token = ((x[here]).to(states.device) for x in (at - part.start, ids))
        scored[here] = scores[place, token].cpu()
    return scored


def chunks(tokens: int, vocabulary: int) -> Iterator[slice]:
    """All tokens, as many at a time as have logits within `CHUNK_ELEMENTS`."""
    size = max(1, CHUNK_ELEMENTS // vocabulary)
    for first in range(0, tokens, size):
        yield slice(first, min(first + size, tokens))
