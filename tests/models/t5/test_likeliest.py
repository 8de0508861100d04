"""The likeliest token by way of int8, against the head's own logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compt_fast.models.t5 import likeliest
from compt_fast.models.t5.likeliest import Likeliest, _Screen
from compt_fast.ops.linear import FrozenLinear
from compt_fast.ops.linear_int8 import Int8Linear

VOCABULARY, WIDTH = 3000, 96


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def screened(weight: Tensor) -> tuple[FrozenLinear, _Screen]:
    head = FrozenLinear(weight)
    return head, _Screen(head.weight)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("rows", [1, 7, 130])
def test_tokens_are_those_of_the_head(rows: int, scale: float) -> None:
    weight = drawn(VOCABULARY, WIDTH) * torch.logspace(-1, 1, VOCABULARY)[torch.randperm(VOCABULARY)][:, None]
    head, screen = screened(weight)
    states = scale * drawn(rows, WIDTH, seed=1)
    found = screen(states)
    assert found is not None and torch.equal(found, head(states).argmax(1))


def test_what_int8_cannot_tell_apart_is_told_apart() -> None:
    """Rows of the head that lie within a step of one another, and equal ones, of which the first is taken."""
    weight = 0.1 * drawn(VOCABULARY, WIDTH)
    weight[100:400] = weight[100] + 1e-4 * drawn(300, WIDTH, seed=2) + 1
    weight[350] = weight[120]
    head, screen = screened(weight)
    states = torch.cat([weight[100:200] + 1, drawn(20, WIDTH, seed=3)])
    found = screen(states)
    assert found is not None and torch.equal(found, head(states).argmax(1))
    assert len(found.unique()) > 5


def test_no_logit_lies_further_off_than_the_bound_says() -> None:
    weight, states = drawn(VOCABULARY, WIDTH), drawn(40, WIDTH, seed=1)
    _, screen = screened(weight)
    q, steps = likeliest.quantise(states)
    apart = torch.linalg.vector_norm(states - q * steps, dim=1)[:, None] * screen.lengths
    bound = torch.linalg.vector_norm(states, dim=1)[:, None] * screen.apart + apart
    off = (screen.rounded(states).double() - states.double() @ weight.double().T).abs()
    assert (off <= bound).all() and (off > 0.05 * bound).any()


@pytest.mark.parametrize("scale", [1e-19, 1e-22, 1e-24])
def test_what_is_too_small_for_fp32_excludes_no_token(scale: float) -> None:
    """A squared entry is 0 in fp32 here, and at last the products of logits, too."""
    weight, states = scale * drawn(VOCABULARY, WIDTH), 1e-18 * drawn(5, WIDTH, seed=1)
    head, screen = screened(weight)
    assert (screen.lengths > 0).all()
    found = screen(states)
    assert found is None or torch.equal(found, head(states).argmax(1))


def test_its_integers_are_those_of_the_whole_head() -> None:
    weight = drawn(2 * likeliest.PART + 5, WIDTH)
    parts, whole = screened(weight)[1].rounded, Int8Linear(weight)
    assert all(torch.equal(one, other) for one, other in zip(parts.tensors, whole.tensors, strict=True))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_where_it_cannot_say_the_head_does(wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likeliest, "WORTH", 1)
    weight, states = drawn(VOCABULARY, WIDTH), drawn(5, WIDTH, seed=1)
    states[2, 3] = wrong
    _, screen = screened(weight)
    assert screen(states) is None and screened(torch.ones(VOCABULARY, WIDTH))[1](drawn(2, WIDTH)) is None
    right = FrozenLinear(weight)(states).argmax(1)
    assert torch.equal(Likeliest(FrozenLinear(weight))(states)[[0, 1, 3, 4]], right[[0, 1, 3, 4]])


def test_small_heads_and_other_types_are_asked_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, states = drawn(VOCABULARY, WIDTH), drawn(5, WIDTH, seed=1)
    assert Likeliest(FrozenLinear(weight))._screen is None
    monkeypatch.setattr(likeliest, "WORTH", 1)
    quick = torch.ops.compt_fast.has_products
    assert (Likeliest(FrozenLinear(weight))._screen is not None) == (quick(torch.float32) and quick(torch.int8))
    half = Likeliest(FrozenLinear(weight.bfloat16()))
    assert half._screen is None and torch.equal(half(states.bfloat16()), half.head(states.bfloat16()).argmax(1))
