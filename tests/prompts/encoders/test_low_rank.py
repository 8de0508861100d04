"""Prompts as products of low rank: their numbers, their values and where they start."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compt_fast.config.choices import SHARINGS
from compt_fast.prompts.compose import compose
from compt_fast.prompts.parameters import PromptBank, check_vocabulary, parameter_count, parameter_shapes, rate_groups
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError

PT = PromptShape("pt", 3, 0, True, 7, 10, encoder="low-rank", hidden=2)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_prompt_is_its_tokens_times_the_rows(sharing: str) -> None:
    shape = replace(PT, sharing=sharing)
    bank = PromptBank.create(shape, [0, 1]).to(torch.float64)
    found = compose(bank.params, shape).targets
    assert found is not None and found.shape == (2, 3, 7, 10)
    for run in range(2):
        for task in range(3):
            a = bank.params["private_tokens"][run, task]
            b = bank.params["private_encoder.rows"][run, task if sharing == "per-prompt" else 0]
            wanted = torch.stack([sum((a[i, k] * b[k] for k in range(2)), torch.zeros(10)) for i in range(7)])
            torch.testing.assert_close(found[run, task], wanted, rtol=0, atol=1e-12)
            assert torch.linalg.matrix_rank(found[run, task]) == 2


def test_it_has_the_numbers_of_two_thin_matrices() -> None:
    assert parameter_shapes(PT) == {"private_tokens": (3, 7, 2), "private_encoder.rows": (3, 2, 10)}
    paper = PromptShape("pt", 1, 0, True, 100, 768, encoder="low-rank", hidden=10)
    assert parameter_count(paper) == 10 * (100 + 768)
    groups = {"private_tokens": "private", "private_encoder.rows": "private_encoder"}
    assert rate_groups(PT) == groups


def test_sources_are_products_too_and_prompts_of_one_role_alone_may_be() -> None:
    spp = replace(PT, composition="spp", sources=2)
    assert parameter_shapes(spp)["source_tokens"] == (2, 7, 2)
    assert parameter_shapes(replace(spp, encoded="private"))["source_tokens"] == (2, 7, 10)


def test_both_start_as_in_the_published_code() -> None:
    bank = PromptBank.create(replace(PT, tasks=40), [3])
    for p in bank.params.values():
        assert p.abs().max() <= 0.5 and float(p.detach().std()) == pytest.approx(0.5 / 3**0.5, rel=0.1)


def test_its_tokens_are_no_rows_of_the_vocabulary() -> None:
    with pytest.raises(InputError, match="as wide as the trunk \\(10\\), and those of encoder 'low-rank' are 2 wide"):
        PromptBank.create(PT, [0], init="vocab", embedding=torch.randn(50, 10))
    check_vocabulary(PT, "uniform", 3)
    check_vocabulary(replace(PT, encoder="linear"), "vocab", 50)
