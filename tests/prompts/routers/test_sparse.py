"""SMoP's router against its formula in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compt_fast.prompts.compose import compose, compose_rows
from compt_fast.prompts.entry import Texts
from compt_fast.prompts.parameters import PromptBank, mixing_parameters
from compt_fast.prompts.routers.sparse import largest, perturbed
from compt_fast.prompts.shape import PromptShape

R, T, N, M, D = 2, 3, 4, 2, 6
SHAPE = PromptShape("inside", T, N, False, M, D, encoder="none", router="sparse")
RUNS, TASKS = torch.tensor([1, 0, 1, 1, 0]), torch.tensor([2, 0, 0, 2, 1])
LENGTHS = [1, 3, 2, 1, 4]


def texts() -> Texts:
    drawn = torch.randn(sum(LENGTHS), D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return Texts(drawn, torch.tensor(LENGTHS))


@given(seed=st.integers(0, 30), noisy=st.booleans())
def test_a_row_gets_its_most_probable_prompt_times_the_probability(seed: int, noisy: bool) -> None:
    bank = PromptBank.create(SHAPE, [seed, seed + 1]).to(torch.float64)
    noise = torch.rand(5, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) if noisy else None
    begun = compose(bank.params, SHAPE, training=noisy)
    few = {name: bank.params[name] for name in mixing_parameters(SHAPE)}
    found = compose_rows(begun, few, SHAPE, RUNS, TASKS, texts(), noise=noise)
    ahead = torch.randn(found.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    (found * ahead).sum().backward()
    tokens, weight = bank.params["source_tokens"].detach(), bank.params["router.weight"].detach()
    wanted_tokens, wanted_weight = torch.zeros_like(tokens), torch.zeros_like(weight)
    for row, (run, text) in enumerate(zip(RUNS.tolist(), texts().embeddings.split(LENGTHS), strict=True)):
        mean = text.mean(0)
        z = weight[run] @ mean
        if noise is not None:
            z = z + z * math.sqrt(2) * torch.erfinv(2 * noise[row] - 1)
        p = z.softmax(0)
        best = int(p.argmax())
        torch.testing.assert_close(found[row], p[best] * tokens[run, best])
        wanted_tokens[run, best] += p[best] * ahead[row]
        towards = p[best] * (torch.eye(N, dtype=torch.float64)[best] - p) * (ahead[row] * tokens[run, best]).sum()
        wanted_weight[run] += towards[:, None] * mean
    assert bank.params["source_tokens"].grad is not None and bank.params["router.weight"].grad is not None
    torch.testing.assert_close(bank.params["source_tokens"].grad, wanted_tokens)
    torch.testing.assert_close(bank.params["router.weight"].grad, wanted_weight)


def test_noise_of_zero_and_of_nearly_one_stays_finite_and_one_half_changes_nothing() -> None:
    z = torch.tensor([[2.0, -1.0, 0.5]])
    ends = torch.tensor([[0.0, 1 - 2**-24, 0.5]])
    assert perturbed(z, None, ends).isfinite().all()
    assert torch.equal(perturbed(z, None, torch.full_like(z, 0.5)), largest(z))


def test_of_equal_ones_the_first_is_taken() -> None:
    assert largest(torch.zeros(2, 3)).tolist() == [[pytest.approx(1 / 3), 0, 0]] * 2


def test_it_goes_beside_private_prompts_and_gates_too() -> None:
    for shape in (replace(SHAPE, private=True), replace(SHAPE, composition="spp", private=True, gates="learned")):
        bank = PromptBank.create(shape, [0, 1]).to(torch.float64)
        compose_rows(compose(bank.params, shape), bank.params, shape, RUNS, TASKS, texts()).square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in bank.params.values())
