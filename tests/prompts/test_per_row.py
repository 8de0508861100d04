"""Routers and compositions of each row, made up here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from compt_fast.prompts.compose import compose, compose_rows
from compt_fast.prompts.compositions import COMPOSITIONS, Parts, Rule
from compt_fast.prompts.entry import Parameter, Rows, Texts
from compt_fast.prompts.parameters import PromptBank, mixing_parameters
from compt_fast.prompts.routers import ROUTERS, Router
from compt_fast.prompts.routing import Mask
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError

R, T, N, M, D = 2, 3, 4, 2, 6
SPP = PromptShape("spp", T, N, True, M, D, encoder="linear", normalisation="softmax")
RUNS, TASKS = torch.tensor([1, 0, 1, 1, 0]), torch.tensor([2, 0, 0, 2, 1])
TEXTS = Texts(torch.randn(11, D, generator=torch.Generator().manual_seed(3)), torch.tensor([1, 3, 2, 1, 4]))
MEANS = torch.stack([text.mean(0) for text in TEXTS.embeddings.split(TEXTS.lengths.tolist())])


def attention(params: Mapping[str, Tensor], shape: PromptShape, rows: Rows) -> Tensor:
    """Scores of the prompts' mean tokens against the row, turned by a matrix of the run's."""
    assert rows.sources is not None and rows.privates is not None
    keys = rows.sources.mean(2)[rows.runs]
    if shape.n_weights > shape.sources:
        keys = torch.cat([keys, rows.privates.mean(2)[rows.runs, rows.tasks][:, None]], dim=1)
    return torch.einsum("bnd,bde,be->bn", keys, params["attention"][rows.runs], rows.texts.means)


def matrix(shape: PromptShape) -> dict[str, Parameter]:
    return {"attention": Parameter((shape.d_model, shape.d_model), (-1.0, 1.0))}


def generated(parts: Parts) -> Tensor:
    """The private prompt, and a vector of the row's added to each of its tokens."""
    assert parts.rows is not None and parts.privates is not None
    return parts.privates + (parts.rows.texts.means * parts.params["scale"][parts.rows.runs])[:, None]


def scale(shape: PromptShape) -> dict[str, Parameter]:
    return {"scale": Parameter((shape.d_model,), (0.5, 0.5))}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROUTERS, "attention", Router(matrix, attention, per_row=True))
    rule = Rule(generated, sources="none", router="constant", parameters=scale, per_row=True)
    monkeypatch.setitem(COMPOSITIONS, "generated", rule)


def composed(shape: PromptShape) -> tuple[PromptBank, Tensor]:
    """A bank, and its prompts for the rows, of which evaluation has no parameters but those that mix."""
    bank = PromptBank.create(shape, list(range(R)))
    begun = compose(bank.params, shape)
    assert shape.per_row and begun.targets is None
    few = {name: bank.params[name] for name in mixing_parameters(shape)}
    return bank, compose_rows(begun, few, shape, RUNS, TASKS, TEXTS)


@pytest.mark.parametrize("composition", ["spp", "scp", "inside"])
def test_a_router_of_each_row_mixes_sources_for_it(composition: str) -> None:
    shape = replace(SPP, composition=composition, router="attention", gates="fixed")
    bank, found = composed(shape)
    begun = compose(bank.params, shape)
    assert found.shape == (5, shape.target_length, D) and begun.weights is None
    assert begun.sources is not None and begun.privates is not None
    for row, (run, task) in enumerate(zip(RUNS.tolist(), TASKS.tolist(), strict=True)):
        private = begun.privates[run, task]
        prompts = [*begun.sources[run], *([private] if composition == "inside" else [])]
        query = bank.params["attention"][run] @ MEANS[row]
        w = torch.softmax(torch.stack([prompt.mean(0) @ query for prompt in prompts]), 0)
        mixture = sum(w[i] * prompt for i, prompt in enumerate(prompts))
        wanted = {"spp": mixture + private, "scp": torch.cat([mixture, private]), "inside": mixture}
        torch.testing.assert_close(found[row], wanted[composition])
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in bank.params.values())


def test_a_composition_of_each_row_reads_the_row() -> None:
    shape = replace(SPP, composition="generated", sources=0, normalisation="auto")
    bank, found = composed(shape)
    privates = compose(bank.params, shape).privates
    assert privates is not None
    torch.testing.assert_close(found, privates[RUNS, TASKS] + 0.5 * MEANS[:, None])


MASKS = [
    Mask((True, False, True, False)),
    Mask((False,) * N),
    Mask((True,) * N, private=False),
    Mask((False, True, True, False), private=False, how="after"),
    Mask((False,) * N, tokens="remove"),
    Mask((True, True, False, True), private=False, tokens="remove"),
]


@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("composition", ["spp", "scp", "inside", "attempt"])
def test_a_router_of_each_row_is_masked_row_by_row(composition: str, mask: Mask) -> None:
    shape = replace(SPP, composition=composition, router="attention", encoder="none", gates="fixed")
    params = {name: p.detach() for name, p in PromptBank.create(shape, list(range(R))).params.items()}
    found = compose_rows(compose(params, shape, mask=mask), params, shape, RUNS, TASKS, TEXTS, mask)
    inside = composition in ("inside", "attempt")
    on = torch.tensor([*mask.sources, *([mask.private] if inside else [])])
    for row, (run, task) in enumerate(zip(RUNS.tolist(), TASKS.tolist(), strict=True)):
        sources, private = params["source_tokens"][run], params["private_tokens"][run, task]
        prompts = torch.cat([sources, private[None]]) if inside else sources
        scores = prompts.mean(1) @ (params["attention"][run] @ MEANS[row])
        out = torch.where(on, scores, -torch.inf) if mask.how == "before" else scores
        w = torch.softmax(out, 0).nan_to_num(0) * on
        private = private * mask.private
        mixture = torch.einsum("n,nmd->md", w[:N], sources)
        halves = [mixture] * (mask.tokens == "zero" or any(mask.sources))
        halves += [private] * (mask.tokens == "zero" or mask.private)
        share = w[-1] + (composition == "attempt")
        wanted = {"spp": mixture + private, "scp": torch.cat(halves)}.get(composition, mixture + share * private)
        torch.testing.assert_close(found[row], wanted)


def test_a_mask_of_another_number_of_sources_is_refused() -> None:
    shape = replace(SPP, router="attention")
    with pytest.raises(InputError, match="on or off for 2 source prompts, but there are 4"):
        compose(PromptBank.create(shape, [0]).params, shape, mask=Mask((True,) * 2))
