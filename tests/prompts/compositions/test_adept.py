"""ADePT's update against its formula in float64, a token at a time."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compt_fast.prompts.compose import update_inputs
from compt_fast.prompts.entry import Texts
from compt_fast.prompts.parameters import PromptBank, parameter_count, rate_groups
from compt_fast.prompts.shape import PromptShape

R, T, D, RANK = 2, 3, 5, 4
ADEPT = PromptShape("adept", T, 0, True, 2, D, encoder="none", update_rank=RANK, update_length=9)
NAMES = ["update.w1", "update.b1", "update.w2", "update.b2"]


def bank_of() -> PromptBank:
    """A float64 bank with an update as if trained."""
    bank = PromptBank.create(ADEPT, list(range(R))).to(torch.float64)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name in NAMES:
            p = bank.params[name]
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return bank


def some_rows(lengths: list[int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Texts]:
    """Runs, tasks and texts of rows of these lengths."""
    generator = torch.Generator().manual_seed(3)
    runs, tasks = (torch.randint(most, (len(lengths),), generator=generator) for most in (R, T))
    return runs, tasks, Texts(torch.randn(sum(lengths), D, generator=generator, dtype=dtype), torch.tensor(lengths))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_each_token_goes_through_the_network_of_its_task(lengths: list[int]) -> None:
    params = {name: p.detach() for name, p in bank_of().params.items()}
    runs, tasks, texts = some_rows(lengths)
    found = update_inputs(params, ADEPT, runs, tasks, texts)
    token = 0
    for run, task, length in zip(runs.tolist(), tasks.tolist(), lengths, strict=True):
        w1, b1, w2, b2 = (params[name][run, task] for name in NAMES)
        for _ in range(length):
            inner = [max(float(texts.embeddings[token] @ w1[:, k] + b1[k]), 0.0) for k in range(RANK)]
            wanted = b2 + sum(inner[k] * w2[k] for k in range(RANK))
            torch.testing.assert_close(found[token], wanted, rtol=0, atol=1e-12)
            token += 1


def test_gradients_are_those_of_the_formula() -> None:
    bank, (runs, tasks, texts) = bank_of(), some_rows([3, 1, 4])

    def update(*values: Tensor) -> Tensor:
        return update_inputs(dict(zip(NAMES, values, strict=True)), ADEPT, runs, tasks, texts)

    assert torch.autograd.gradcheck(update, tuple(bank.params[name] for name in NAMES))


def test_rows_beside_it_change_no_bit_of_a_rows_update() -> None:
    params = {name: p.float() for name, p in bank_of().params.items()}
    runs, tasks, texts = some_rows([3, 5, 2, 4], torch.float32)
    whole = update_inputs(params, ADEPT, runs, tasks, texts)
    mine = runs == runs[0]
    own = Texts(texts.embeddings[texts.by_token(mine)], texts.lengths[mine])
    alone = update_inputs({n: p[runs[0], None] for n, p in params.items()}, ADEPT, 0 * runs[mine], tasks[mine], own)
    assert torch.equal(whole[texts.by_token(mine)], alone)


def test_the_text_starts_as_it_is_and_the_rank_is_the_papers() -> None:
    bank = PromptBank.create(ADEPT, [0, 1])
    assert not update_inputs(bank.params, ADEPT, *some_rows([4, 2], torch.float32)).any()
    assert {rate_groups(ADEPT)[name] for name in NAMES} == {"update"} and ADEPT.update_length == 0
    paper = PromptShape("adept", 1, 0, True, 60, 768, encoder="none")
    assert paper.update_rank == 19 and 99 * 768 < parameter_count(paper) <= 100 * 768
