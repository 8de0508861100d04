"""A run's prompts and updates are the same bits in every cohort (on a CPU)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compt_fast.prompts.compose import compose
from compt_fast.prompts.parameters import PromptBank
from compt_fast.prompts.products import batched, chosen, sigmoid
from compt_fast.prompts.shape import PromptShape
from compt_fast.training.optimizer import FleetAdamW, Hyperparameters

SHAPES = {
    "spp": PromptShape("spp", 8, 3, True, 5, 192, gates="learned"),
    "scp, tied gates": PromptShape("scp", 8, 3, True, 5, 192, gates="tied"),
    "spp, one encoder a role": PromptShape("spp", 8, 1, True, 5, 192, sharing="per-role", gates="learned-global"),
    "pt": PromptShape("pt", 8, 0, True, 5, 192),
    "mst": PromptShape("mst", 8, 1, False, 5, 192),
    "mst of t5-base": PromptShape("mst", 8, 1, False, 5, 768),
    "slpn": PromptShape("inside", 8, 8, True, 10, 192, "linear", "shared"),
    "sigmoid": PromptShape("inside", 7, 3, True, 5, 192, "none", normalisation="sigmoid"),
    "residual": PromptShape("spp", 8, 3, True, 5, 192, "residual", "per-role", 40),
    "low-rank": PromptShape("spp", 8, 3, True, 20, 192, "low-rank", hidden=6),
    "superpos": PromptShape("pt", 8, 0, True, 5, 192, "superpos", "shared", 40),
    "lstm": PromptShape("spp", 3, 2, True, 5, 192, "lstm", "shared", gates="fixed"),
}

ROWS = torch.randn(60, 192, generator=torch.Generator().manual_seed(0))


def trained(shape: PromptShape, seeds: list[int]) -> tuple[Tensor, Tensor]:
    """Target prompts (R, T, L, d) and gradient norms (R,) of runs after three steps, each towards a goal of its own."""
    bank = PromptBank.create(shape, seeds, embedding=ROWS)
    optim = FleetAdamW(bank.params)
    same = torch.ones(len(seeds), dtype=torch.float64)
    for step in range(3):
        targets = compose(bank.params, shape).targets
        assert targets is not None
        goals = [torch.randn(targets.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        loss = ((targets - torch.stack(goals)) ** 2).mean((1, 2, 3)).sum()
        grads = torch.autograd.grad(loss, list(bank.params.values()))
        now = Hyperparameters(dict.fromkeys(bank.params, 0.01 * same), 0.01 * same, same, step * same)
        norms, _ = optim.step(bank.params, grads, now, same.bool())
    return targets.detach(), norms


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_run_has_the_same_bits_alone_and_among_others(shape: PromptShape) -> None:
    wanted, norms = trained(shape, [0, 1, 2, 3])
    for seeds in ([0], [2], [3, 1], [0, 2, 3]):
        found, own_norms = trained(shape, seeds)
        assert torch.equal(found, wanted[seeds]) and torch.equal(own_norms, norms[seeds])


def test_products_of_one_and_their_gradients() -> None:
    drawn = [torch.randn(1, *size, dtype=torch.float64) for size in ((3, 4), (4, 5), (1, 5))]
    a, b, added = (x.requires_grad_() for x in drawn)
    assert torch.equal(batched(a, b), (a @ b))
    torch.testing.assert_close(batched(a, b, added), a @ b + added)
    assert torch.autograd.gradcheck(batched, (a, b, added))


def test_the_logistic_function_rounds_by_its_argument_alone() -> None:
    x = torch.randn(1001, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sigmoid(x), torch.cat([sigmoid(each[None]) for each in x]))
    torch.testing.assert_close(sigmoid(x), torch.sigmoid(x))
    assert sigmoid(x.double()).dtype == torch.float64


def test_rows_gradients_are_summed_in_their_order() -> None:
    """So large that an index would let threads race, where there are several."""
    part = torch.randn(3, 10, 768, requires_grad=True)
    index = torch.tensor([0, 2] * 16)
    direction = torch.randn(32, 10, 768)
    found = chosen(part, index)
    assert torch.equal(found, part[index])
    found.backward(direction)
    wanted = torch.zeros(3, 10, 768)
    for row, of in enumerate(index.tolist()):
        wanted[of] += direction[row]
    assert part.grad is not None and torch.equal(part.grad, wanted)
