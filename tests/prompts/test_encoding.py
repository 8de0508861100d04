from dataclasses import replace

import pytest
import torch
from torch import nn

from compt_fast.config.choices import ENCODER_NAMES, SHARINGS
from compt_fast.prompts.encoding import encode, encoder_prefix
from compt_fast.prompts.parameters import PromptBank
from compt_fast.prompts.shape import PromptShape

SPP = PromptShape("spp", tasks=3, sources=2, private=True, length=3, d_model=6, hidden=5)


def module(shape: PromptShape, params: dict[str, torch.Tensor]) -> nn.Module:
    """One encoder of torch's own layers with the given parameters, loaded by name."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            d, h = shape.d_model, shape.hidden or shape.d_model
            if shape.encoder == "lstm":
                self.lstm = nn.LSTM(d, d // 2, num_layers=2, bidirectional=True, batch_first=True)
            if shape.encoder != "linear":
                self.hidden = nn.Linear(d, h)
            self.out = nn.Linear(h, d)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if shape.encoder == "lstm":
                x = self.lstm(x[None])[0][0]
            if shape.encoder != "linear":
                x = nn.GELU()(self.hidden(x))
            return self.out(x)

    encoder = Encoder().double()
    encoder.load_state_dict(params)
    return encoder


def loops(bank: PromptBank, role: str) -> torch.Tensor:
    """Each prompt through its own module, one after the other."""
    tokens = bank.params[f"{role}_tokens"].detach()
    prefix = encoder_prefix(bank.shape, role) + "."
    out = torch.empty_like(tokens)
    for r in range(tokens.shape[0]):
        for p in range(tokens.shape[1]):
            k = p if bank.shape.sharing == "per-prompt" else 0
            params = {
                name.removeprefix(prefix): tensor[r, k].detach()
                for name, tensor in bank.params.items()
                if name.startswith(prefix)
            }
            with torch.no_grad():
                out[r, p] = module(bank.shape, params)(tokens[r, p])
    return out


@pytest.mark.parametrize("role", ["source", "private"])
@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("encoder", ["mlp", "linear", "lstm"])
def test_encoders_are_torchs_own_layers_a_prompt_at_a_time(encoder, sharing, role):
    shape = replace(SPP, encoder=encoder, sharing=sharing)
    bank = PromptBank.create(shape, [0, 1]).to(torch.float64)
    encoded = encode(bank.params, shape, role)
    assert encoded.shape == bank.params[f"{role}_tokens"].shape
    torch.testing.assert_close(encoded, loops(bank, role), rtol=0, atol=1e-12)


def test_no_encoder_leaves_the_tokens_as_they_are():
    bank = PromptBank.create(replace(SPP, encoder="none"), [0])
    assert torch.equal(encode(bank.params, bank.shape, "source"), bank.params["source_tokens"])


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_gradcheck(encoder, sharing):
    shape = PromptShape("inside", 2, 2, True, 2, 2, encoder=encoder, sharing=sharing)
    bank = PromptBank.create(shape, [0], embedding=torch.randn(9, 2)).to(torch.float64)
    names = [name for name in bank.params if name != "router"]

    def both(*values: torch.Tensor) -> torch.Tensor:
        params = dict(zip(names, values, strict=True))
        return encode(params, shape, "source") + encode(params, shape, "private")

    assert torch.autograd.gradcheck(both, tuple(bank.params[name] for name in names))


def test_encoders_of_one_role_only_are_named_after_it():
    shared = replace(SPP, sharing="shared")
    pt = replace(shared, composition="pt", sources=0)
    mst = replace(shared, composition="mst", sources=1, private=False)
    assert encoder_prefix(pt, "private") == "private_encoder"
    assert encoder_prefix(mst, "source") == "source_encoder"
    for role in ("source", "private"):
        assert encoder_prefix(shared, role) == "shared_encoder"


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("encoder", ["mlp", "linear", "lstm"])
def test_the_tokens_may_be_any_view(encoder, sharing):
    bank = PromptBank.create(replace(SPP, encoder=encoder, sharing=sharing), [0, 1])
    tokens = bank.params["source_tokens"]
    strange = tokens.detach().permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    params = bank.params | {"source_tokens": strange}
    torch.testing.assert_close(encode(params, bank.shape, "source"), encode(bank.params, bank.shape, "source"))
