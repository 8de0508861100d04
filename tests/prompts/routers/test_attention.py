"""ATTEMPT's attention over prompts, against loops in float64 over rows and prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from compt_fast.prompts.compose import compose, compose_rows
from compt_fast.prompts.entry import Texts
from compt_fast.prompts.parameters import PromptBank, parameter_count
from compt_fast.prompts.shape import PromptShape

T, N, M, D = 3, 4, 5, 16
SHAPE = PromptShape("attempt", T, N, True, M, D, encoder="none", router="attention")
RUNS, TASKS, LENGTHS = [1, 0, 1, 1, 0, 1], [2, 0, 0, 2, 1, 2], [1, 3, 2, 1, 4, 7]


def texts(dtype: torch.dtype) -> Texts:
    drawn = torch.randn(sum(LENGTHS), D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return Texts(drawn.to(dtype) * 4, torch.tensor(LENGTHS))


def bank_of(shape: PromptShape, dtype: torch.dtype, runs: int = 2) -> PromptBank:
    """Prompts as large as trained ones, and a layer normalisation that has learned."""
    bank = PromptBank.create(shape, list(range(runs)))
    with torch.no_grad():
        for name in ("source_tokens", "private_tokens"):
            bank.params[name].mul_(50)
        for seed, name in enumerate(("attention.scale", "attention.shift")):
            drawn = torch.randn(D, generator=torch.Generator().manual_seed(seed))
            bank.params[name].add_(0.3 * drawn)
    return bank.to(dtype)


def rows_of(bank: PromptBank) -> Tensor:
    runs, tasks = torch.tensor(RUNS), torch.tensor(TASKS)
    dtype = bank.params["source_tokens"].dtype
    return compose_rows(compose(bank.params, bank.shape), bank.params, bank.shape, runs, tasks, texts(dtype))


def by_hand(params: Mapping[str, Tensor], run: int, task: int, text: Tensor) -> Tensor:
    """One row's target prompt (m, d) of its own text (tokens, d), prompt by prompt."""
    x = torch.stack([text[:, c].max() for c in range(D)])
    hidden = [row @ x for row in params["attention.down"][run]]
    acted = torch.stack([h / (1 + torch.exp(-h)) for h in hidden])
    turned = torch.stack([row @ acted for row in params["attention.up"][run]])
    spread = torch.sqrt(((turned - turned.mean()) ** 2).mean() + 1e-5)
    query = (turned - turned.mean()) / spread * params["attention.scale"][run] + params["attention.shift"][run]
    private = params["private_tokens"][run, task]
    prompts = [*params["source_tokens"][run], private]
    keys = [torch.stack([prompt[:, c].max() for c in range(D)]) for prompt in prompts]
    exps = [torch.exp(key @ query / (math.e * D)) for key in keys]
    total = sum(exps, torch.zeros((), dtype=torch.float64))
    return private + sum(
        (e / total * prompt for e, prompt in zip(exps, prompts, strict=True)), torch.zeros_like(private)
    )


def test_targets_and_gradients_are_those_of_the_loops() -> None:
    bank, other = bank_of(SHAPE, torch.float64), bank_of(SHAPE, torch.float64)
    found = rows_of(bank)
    own = texts(torch.float64).embeddings.split(LENGTHS)
    wanted = torch.stack([by_hand(other.params, *row) for row in zip(RUNS, TASKS, own, strict=True)])
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    direction = torch.randn(found.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for targets in (found, wanted):
        targets.backward(direction)
    for name, p in bank.params.items():
        assert p.grad is not None and p.grad.any()
        torch.testing.assert_close(p.grad, other.params[name].grad, rtol=1e-9, atol=1e-9)


def test_weights_add_up_to_one() -> None:
    """With all prompts the same, the target is twice that prompt whatever the row attends to."""
    bank = bank_of(SHAPE, torch.float64)
    with torch.no_grad():
        for name in ("source_tokens", "private_tokens"):
            bank.params[name].copy_(bank.params["source_tokens"][:, :1].expand_as(bank.params[name]))
    twice = 2 * bank.params["source_tokens"][RUNS, 0]
    torch.testing.assert_close(rows_of(bank), twice)


@pytest.mark.parametrize("run", [0, 1])
def test_a_runs_numbers_are_the_same_bits_without_the_others(run: int) -> None:
    bank = bank_of(SHAPE, torch.float32)
    rows = [row for row, of in enumerate(RUNS) if of == run]
    together = rows_of(bank)[rows]
    together.square().sum().backward()
    few = bank.select([run])
    lengths = torch.tensor(LENGTHS)
    own = texts(torch.float32).embeddings.split(LENGTHS)
    alone = compose_rows(
        compose(few.params, SHAPE),
        few.params,
        SHAPE,
        torch.zeros(len(rows), dtype=torch.int64),
        torch.tensor([TASKS[row] for row in rows]),
        Texts(torch.cat([own[row] for row in rows]), lengths[rows]),
    )
    assert torch.equal(together, alone)
    alone.square().sum().backward()
    for name, p in few.params.items():
        assert p.grad is not None and bank.params[name].grad is not None
        assert torch.equal(bank.params[name].grad[run], p.grad[0]), name


def test_parameters_are_as_many_as_the_paper_counts() -> None:
    """Table 1 of the paper: 232 thousand a task at t5-base, with 100 prompt tokens; the frozen sources not counted."""
    base = PromptShape("attempt", 1, 6, True, 100, 768, encoder="none", router="attention")
    learned = parameter_count(base) - 6 * 100 * 768
    assert learned == 100 * 768 + 2 * 100 * 768 + 2 * 768 == 231_936
