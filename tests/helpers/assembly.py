"""Arguments for the assembly operator, and what it should make of them, a row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def cu_seqlens_of(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)


def case(
    prompt_lengths: Sequence[int] = (5, 0, 3, 1),
    row_lengths: Sequence[int] = (7, 1, 0, 13, 2, 2),
    slots: Sequence[int] | None = None,
    *,
    width: int = 24,
    vocabulary: int = 50,
    prompt_type: torch.dtype = torch.float32,
    trunk_type: torch.dtype = torch.bfloat16,
    prepend: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """The operator's arguments by name; slots are drawn where none are given."""
    generator = torch.Generator().manual_seed(seed)
    count, rows = len(prompt_lengths), len(row_lengths)
    if slots is None:
        slots = torch.randint(max(count, 1), (rows,), generator=generator).tolist()
    return {
        "prompts": torch.randn(sum(prompt_lengths), width, generator=generator).to(prompt_type),
        "prompt_cu_seqlens": cu_seqlens_of(prompt_lengths),
        "slots": torch.tensor(slots, dtype=torch.int64),
        "token_ids": torch.randint(vocabulary, (sum(row_lengths),), generator=generator),
        "input_cu_seqlens": cu_seqlens_of(row_lengths),
        "embedding": torch.randn(vocabulary, width, generator=generator).to(trunk_type),
        "prepend": prepend,
    }


def needed(arguments: dict[str, Any]) -> int:
    """The packed rows of a case."""
    lengths = arguments["prompt_cu_seqlens"].diff()[arguments["slots"]]
    return int(lengths.sum()) + len(arguments["token_ids"])


def expected(arguments: dict[str, Any], total: int | None = None) -> tuple[Tensor, Tensor]:
    """The packed input and its cu_seqlens."""
    prompts, embedding = arguments["prompts"], arguments["embedding"]
    starts, ends = arguments["prompt_cu_seqlens"].tolist(), arguments["input_cu_seqlens"].tolist()
    pieces, lengths = [], []
    for row, slot in enumerate(arguments["slots"].tolist()):
        prompt = prompts[starts[slot] : starts[slot + 1]].to(embedding.dtype)
        text = embedding[arguments["token_ids"][ends[row] : ends[row + 1]]]
        pieces += [prompt, text] if arguments["prepend"] else [text, prompt]
        lengths.append(len(prompt) + len(text))
    used = sum(lengths)
    slack = embedding.new_zeros((used if total is None else total) - used, embedding.shape[1])
    return torch.cat([*pieces, slack]), cu_seqlens_of(lengths)


def expected_grad(arguments: dict[str, Any], grad: Tensor) -> Tensor:
    """The prompts' gradient in the dtype that it is summed in, added up in the order of the rows."""
    starts, ends = arguments["prompt_cu_seqlens"].tolist(), arguments["input_cu_seqlens"].diff().tolist()
    sums = torch.float64 if grad.dtype == torch.float64 else torch.float32
    total = torch.zeros(arguments["prompts"].shape, dtype=sums)
    at = 0
    for row, slot in enumerate(arguments["slots"].tolist()):
        length = starts[slot + 1] - starts[slot]
        first = at if arguments["prepend"] else at + ends[row]
        total[starts[slot] : starts[slot + 1]] += grad[first : first + length].to(sums)
        at += length + ends[row]
    return total
