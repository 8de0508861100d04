"""MPT's composition against its formula in float64, written out by places."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compt_fast.prompts.artifact import RunPrompts
from compt_fast.prompts.compose import compose
from compt_fast.prompts.parameters import PromptBank, parameter_count, rate_groups
from compt_fast.prompts.routing import Mask
from compt_fast.prompts.shape import PromptShape

R, T, M, D = 2, 3, 4, 6
SHAPE = PromptShape("factored", T, 1, False, M, D, encoder="none")


def bank_of(shape: PromptShape, seed: int = 0) -> PromptBank:
    bank = PromptBank.create(shape, [0, 1]).to(torch.float64)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in bank.params.values():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return bank


def composed(bank: PromptBank, mask: Mask | None = None) -> Tensor:
    targets = compose(bank.params, bank.shape, mask=mask).targets
    assert targets is not None
    return targets


@given(tasks=st.integers(1, 4), length=st.integers(1, 5), width=st.integers(1, 7), seed=st.integers(0, 9))
def test_targets_and_gradients_are_those_of_the_formula(tasks: int, length: int, width: int, seed: int) -> None:
    bank = bank_of(PromptShape("factored", tasks, 1, False, length, width, encoder="none"), seed)
    found = composed(bank)
    p, u, v = (x.detach().tolist() for x in bank.params.values())
    ahead = torch.randn(found.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    (found * ahead).sum().backward()
    g, values = ahead.tolist(), found.tolist()
    grads = [x.grad.tolist() for x in bank.params.values() if x.grad is not None]
    for r in range(R):
        for t in range(tasks):
            for k in range(length):
                for i in range(width):
                    assert math.isclose(values[r][t][k][i], p[r][0][k][i] * u[r][t][k] * v[r][t][i], rel_tol=1e-12)
                wanted = sum(g[r][t][k][i] * p[r][0][k][i] * v[r][t][i] for i in range(width))
                assert math.isclose(grads[1][r][t][k], wanted, rel_tol=1e-9, abs_tol=1e-12)
            for i in range(width):
                wanted = sum(g[r][t][k][i] * p[r][0][k][i] * u[r][t][k] for k in range(length))
                assert math.isclose(grads[2][r][t][i], wanted, rel_tol=1e-9, abs_tol=1e-12)
        for k in range(length):
            for i in range(width):
                wanted = sum(g[r][t][k][i] * u[r][t][k] * v[r][t][i] for t in range(tasks))
                assert math.isclose(grads[0][r][0][k][i], wanted, rel_tol=1e-9, abs_tol=1e-12)


def test_every_task_starts_at_the_shared_prompt() -> None:
    bank = PromptBank.create(SHAPE, [3, 4])
    found = composed(bank)
    assert torch.equal(found, bank.params["source_tokens"].expand(R, T, M, D)) and found.any()
    assert rate_groups(SHAPE) == {"source_tokens": "source", "factors.u": "private", "factors.v": "private"}
    assert parameter_count(SHAPE) == M * D + T * (M + D)


def test_what_is_kept_of_a_run_composes_it_again_and_a_mask_leaves_zeros() -> None:
    bank = bank_of(SHAPE)
    kept = RunPrompts.of(SHAPE, compose(bank.params, SHAPE), bank.params)
    assert torch.equal(kept.masked(Mask((True,))).tensors["targets"], composed(bank)[0])
    assert not kept.masked(Mask((False,))).tensors["targets"].any()
