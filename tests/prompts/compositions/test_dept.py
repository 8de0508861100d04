"""DePT's update against its formula in float64, a token at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compt_fast.prompts.compose import compose, update_inputs
from compt_fast.prompts.entry import Texts
from compt_fast.prompts.parameters import PromptBank, mixing_parameters, parameter_count, rate_groups
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError

R, T, M, D, RANK, LENGTH = 2, 3, 2, 5, 4, 6
DEPT = PromptShape("dept", T, 0, True, M, D, encoder="none", update_rank=RANK, update_length=LENGTH)


def bank_of(shape: PromptShape, runs: int = R) -> PromptBank:
    """A float64 bank with an update as if trained."""
    bank = PromptBank.create(shape, list(range(runs))).to(torch.float64)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, p in bank.params.items():
            if name.startswith("update."):
                p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return bank


def some_rows(lengths: list[int], seed: int = 3) -> tuple[Tensor, Tensor, Texts]:
    """Runs, tasks and texts of rows of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    runs, tasks = (torch.randint(most, (len(lengths),), generator=generator) for most in (R, T))
    embeddings = torch.randn(sum(lengths), D, generator=generator, dtype=torch.float64)
    return runs, tasks, Texts(embeddings, torch.tensor(lengths))


@given(st.lists(st.integers(1, LENGTH + 3), min_size=1, max_size=5))
def test_each_token_has_the_product_at_its_place_in_its_row(lengths: list[int]) -> None:
    bank, (runs, tasks, texts) = bank_of(DEPT), some_rows(lengths)
    found = iter(update_inputs(bank.params, DEPT, runs, tasks, texts))
    a, b = bank.params["update.a"], bank.params["update.b"]
    for run, task, length in zip(runs.tolist(), tasks.tolist(), lengths, strict=True):
        for place in range(length):
            wanted = torch.zeros(D, dtype=torch.float64)
            for k in range(RANK if place < LENGTH else 0):
                wanted = wanted + a[run, task, place, k] * b[run, task, k]
            torch.testing.assert_close(next(found), wanted, rtol=0, atol=1e-12)


def test_gradients_are_those_of_the_formula() -> None:
    bank, (runs, tasks, texts) = bank_of(DEPT, 2), some_rows([LENGTH + 2, 1, 3, 4])
    names = ["update.a", "update.b"]

    def update(*values: Tensor) -> Tensor:
        return update_inputs(dict(zip(names, values, strict=True)), DEPT, runs, tasks, texts)

    assert set(names) < mixing_parameters(DEPT).keys() | {"private_tokens"}
    assert torch.autograd.gradcheck(update, tuple(bank.params[name] for name in names))


def test_the_prompt_is_the_private_one_and_the_text_starts_as_it_is() -> None:
    bank = PromptBank.create(DEPT, [0, 1])
    targets = compose(bank.params, DEPT).targets
    assert targets is not None and torch.equal(targets, bank.params["private_tokens"])
    runs, tasks, texts = some_rows([4, 2])
    assert not update_inputs(bank.params, DEPT, runs, tasks, texts).any()
    assert bank.params["update.a"].abs().max() <= RANK**-0.5 and bank.params["update.a"].std() > 0.2
    groups = {"private_tokens": "private", "update.a": "update", "update.b": "update"}
    assert rate_groups(DEPT) == groups


@pytest.mark.parametrize(("length", "rank"), [(20, 60), (40, 45), (60, 30), (80, 15)])
def test_the_rank_is_what_the_paper_has_beside_a_prompt(length: int, rank: int) -> None:
    """As many numbers as 100 tokens of t5-base, with texts of 256."""
    shape = PromptShape("dept", 1, 0, True, length, 768, encoder="none", update_length=256)
    assert shape.update_rank == rank and parameter_count(shape) == 100 * 768


def test_other_compositions_have_no_update() -> None:
    shape = PromptShape("pt", 1, 0, True, 2, 5, update_rank=3, update_length=7)
    assert (shape.update_rank, shape.update_length, shape.updates_inputs) == (0, 0, False)
    with pytest.raises(ValueError, match="pt adds nothing to the embeddings"):
        update_inputs({}, shape, *some_rows([1]))


def test_what_leaves_no_update_is_refused() -> None:
    with pytest.raises(InputError, match="leave no rank for the update of dept: give --update-rank"):
        PromptShape("dept", 1, 0, True, 100, 768, encoder="none", update_length=256)
    with pytest.raises(InputError, match="update_length must be at least 1"):
        PromptShape("dept", 1, 0, True, 4, 768, encoder="none")
    with pytest.raises(InputError, match="must not be negative"):
        PromptShape("adept", 1, 0, True, 4, 768, encoder="none", update_rank=-1)
