"""Six rows and four prompts of unlike lengths, which every engine is tried on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compt_fast.models.api import Trunk
from compt_fast.models.batch import Batch, make_batch

SLOTS = [2, 0, 1, 1, 3, 2]
TEXTS = [
    "rte: sentence1: the dog is good sentence2: a man went",
    "sst2: sentence1: a small film",
    "cola: sentence1: she gave the book to who",
    "a",
    "qnli: question: where is the red house sentence2: it is in the city by the river you see",
    "the cat ate",
]
ROWS = range(6)
LABELS = ["not_entailment", "low", "accept able", "1", "entail ment", "positive"]


def some_prompts(trunk: Trunk, lengths: Sequence[int] = (5, 3, 1, 8), seed: int = 7) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, trunk.d_model, generator=generator).to(trunk.device).requires_grad_() for n in lengths]


def ids(trunk: Trunk, text: str) -> list[int]:
    return trunk.tokenizer(text)["input_ids"]


def some_batch(trunk: Trunk, rows: Sequence[int] = ROWS, labels: bool = True) -> Batch:
    return make_batch(
        [ids(trunk, TEXTS[b]) for b in rows],
        [ids(trunk, LABELS[b]) for b in rows] if labels else None,
        [SLOTS[b] for b in rows],
    )


def gradients(losses: Tensor, prompts: Sequence[Tensor]) -> list[Tensor]:
    weights = torch.linspace(0.5, 2, len(losses), device=losses.device)
    return list(torch.autograd.grad((losses * weights).sum(), prompts))
