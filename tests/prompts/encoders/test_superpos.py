"""Superpositions of rows of the vocabulary: which rows, what becomes of them, and too few of them."""

from __future__ import annotations

import re

import pytest
import torch

from compt_fast.prompts.compose import compose
from compt_fast.prompts.parameters import PromptBank, check_vocabulary, parameter_shapes
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError

SHAPE = PromptShape("pt", 3, 0, True, 5, 6, encoder="superpos", hidden=4)
ROWS = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))


def test_the_rows_are_the_vocabularys_and_none_stands_twice() -> None:
    bank = PromptBank.create(SHAPE, [0, 1], embedding=ROWS)
    drawn = bank.params["private_encoder.rows"]
    assert drawn.shape == (2, 3, 4, 6)
    places = (drawn.flatten(0, 2)[:, None] == ROWS).all(-1).nonzero()[:, 1].view(6, 4)
    assert len(places) == 6 and int(places.min()) >= 3, "no special token"
    assert all(len(own.unique()) == 4 for own in places)
    assert len({tuple(own.tolist()) for own in places}) == 6, "each prompt has rows of its own"
    again = PromptBank.create(SHAPE, [1], embedding=ROWS).params["private_encoder.rows"]
    assert torch.equal(again[0], drawn[1])


def test_a_token_is_the_weighted_sum_of_the_rows_and_nothing_normalises_it() -> None:
    bank = PromptBank.create(SHAPE, [0], embedding=ROWS).to(torch.float64)
    found = compose(bank.params, SHAPE).targets
    assert found is not None and parameter_shapes(SHAPE)["private_tokens"] == (3, 5, 4)
    weights, rows = bank.params["private_tokens"][0], bank.params["private_encoder.rows"][0]
    wanted = torch.einsum("tmk,tkd->tmd", weights, rows)
    torch.testing.assert_close(found[0], wanted, rtol=0, atol=1e-12)
    assert not torch.allclose(weights.sum(-1), torch.ones(3, 5, dtype=torch.float64), atol=0.2)


def test_a_token_starts_as_varied_as_a_row() -> None:
    shape = PromptShape("pt", 30, 0, True, 20, 64, encoder="superpos", hidden=40)
    table = 3 * torch.randn(500, 64, generator=torch.Generator().manual_seed(2))
    targets = compose(PromptBank.create(shape, [0], embedding=table).params, shape).targets
    assert targets is not None and float(targets.detach().std()) == pytest.approx(3, rel=0.1)


def test_too_small_a_vocabulary_is_refused() -> None:
    says = "encoder 'superpos' sums 4 rows of the vocabulary, and there are 3 to draw from (the first 5000 without "
    with pytest.raises(InputError, match=re.escape(says)):
        PromptBank.create(SHAPE, [0], embedding=ROWS[:6])
    with pytest.raises(InputError, match="lower --encoder-hidden to 3 or less"):
        check_vocabulary(SHAPE, "uniform", 6)
    check_vocabulary(SHAPE, "vocab", 7)
    with pytest.raises(InputError, match="needs the trunk's embedding"):
        PromptBank.create(SHAPE, [0])
