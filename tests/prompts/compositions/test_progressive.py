"""A new prompt before the earlier ones, token by token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from compt_fast.prompts.compose import compose
from compt_fast.prompts.parameters import PromptBank, parameter_shapes
from compt_fast.prompts.routing import Mask
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError

R, N, M, D = 2, 3, 2, 4
SHAPE = PromptShape("progressive", 1, N, True, M, D, encoder="none")


@pytest.mark.parametrize("encoder", ["none", "mlp"])
@pytest.mark.parametrize(
    ("mask", "blocks"),
    [
        (None, "p321"),
        (Mask((True, False, True)), "p301"),
        (Mask((False, False, True), private=False), "0300"),
        (Mask((True, False, True), tokens="remove"), "p31"),
        (Mask((False, True, False), private=False, tokens="remove"), "2"),
        (Mask((False,) * N, tokens="remove"), "p"),
    ],
    ids=str,
)
def test_the_latest_stands_first(mask: Mask | None, blocks: str, encoder: str) -> None:
    shape = replace(SHAPE, encoder=encoder, encoded="private" if encoder == "mlp" else "both")
    bank = PromptBank.create(shape, list(range(R)))
    found = compose(bank.params, shape, mask=mask)
    whole = compose(bank.params, shape)
    assert found.targets is not None and whole.privates is not None and found.weights is None
    for run in range(R):
        named = {"p": whole.privates[run, 0], "0": torch.zeros(M, D)}
        named |= {str(i + 1): bank.params["source_tokens"][run, i] for i in range(N)}
        wanted = [named[block][k] for block in blocks for k in range(M)]
        assert torch.equal(found.targets[run, 0], torch.stack(wanted))
    if mask is None:
        assert found.targets.shape[2] == shape.target_length
        found.targets.square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in bank.params.values())


def test_the_first_task_has_nothing_before_it() -> None:
    first = replace(SHAPE, sources=0)
    params = PromptBank.create(first, [0]).params
    assert parameter_shapes(first).keys() == {"private_tokens"} and first.target_length == M
    assert torch.equal(compose(params, first).targets, params["private_tokens"])  # type: ignore[arg-type]


def test_nothing_weighs_the_earlier_ones() -> None:
    with pytest.raises(InputError, match="sources must not be negative, not -1"):
        replace(SHAPE, sources=-1)
    with pytest.raises(InputError, match="progressive has no source weights"):
        replace(SHAPE, router="attention")
