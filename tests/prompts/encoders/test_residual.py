"""The residual encoder against torch's own layers and a way around them, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from compt_fast.config.choices import SHARINGS
from compt_fast.prompts.encoding import encode, encoder_prefix
from compt_fast.prompts.parameters import PromptBank, parameter_count
from compt_fast.prompts.shape import PromptShape

SPP = PromptShape("spp", 3, 2, True, 4, 6, encoder="residual", hidden=5)


@pytest.mark.parametrize("role", ["source", "private"])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_it_is_torchs_own_layers_beside_the_tokens(sharing: str, role: str) -> None:
    shape = replace(SPP, sharing=sharing)
    bank = PromptBank.create(shape, [0, 1]).to(torch.float64)
    with torch.no_grad():
        for p in bank.params.values():
            p.add_(torch.linspace(-0.3, 0.4, p.numel(), dtype=p.dtype).view_as(p))
    prefix, tokens = encoder_prefix(shape, role), bank.params[f"{role}_tokens"]
    places = {"hidden": "0", "out": "2", "norm": "3"}
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 6), nn.LayerNorm(6)).double()
    found = encode(bank.params, shape, role)
    for run in range(2):
        for prompt in range(tokens.shape[1]):
            k = prompt if sharing == "per-prompt" else 0
            own = {n.removeprefix(f"{prefix}."): p[run, k] for n, p in bank.params.items() if n.startswith(prefix)}
            net.load_state_dict({f"{places[n.split('.')[0]]}.{n.split('.')[1]}": p for n, p in own.items()})
            raw = tokens[run, prompt]
            torch.testing.assert_close(found[run, prompt], raw + net(raw), rtol=0, atol=1e-12)


def test_its_norm_starts_as_torchs_and_its_numbers_are_the_papers() -> None:
    bank = PromptBank.create(SPP, [0])
    assert torch.equal(bank.params["source_encoder.norm.weight"], torch.ones(1, 2, 6))
    assert not bank.params["source_encoder.norm.bias"].any()
    paper = PromptShape("pt", 1, 0, True, 10, 768, encoder="residual", hidden=800)
    assert parameter_count(paper) == 10 * 768 + 2 * 768 * 800 + 800 + 768 + 2 * 768
