"""The analyses' formulas against plain loops in float64, and on real trained prompts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from compt_fast.analysis.formulas import anatomy, recalls, token_similarities, weighted_similarity
from compt_fast.prompts.compose import compose
from compt_fast.prompts.foreign import read_foreign
from compt_fast.prompts.parameters import PromptBank
from compt_fast.prompts.shape import PromptShape
from compt_fast.prompts.similarity import mean_cosine
from tests.helpers.shared import real


def cosine(a: list[float], b: list[float]) -> float:
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def mean_of_tokens(prompt: Tensor) -> list[float]:
    rows = prompt.tolist()
    return [sum(row[i] for row in rows) / len(rows) for i in range(len(rows[0]))]


def parts(composition: str, sources: int, *, private: bool, tasks: int = 3) -> dict[str, Tensor]:
    """The stored tensors of one run of freshly drawn prompts with a router that has learned something."""
    inside = composition == "inside"
    shape = PromptShape(
        composition,
        tasks=tasks,
        sources=sources,
        private=private,
        length=4,
        d_model=6,
        encoder="linear",
        gates="learned" if composition in ("spp", "scp") else "fixed",
        normalisation="softmax-temperature" if inside else "auto",
    )
    params = {name: p.detach() for name, p in PromptBank.create(shape, [5]).params.items()}
    if "router" in params:
        params["router"] = torch.randn(params["router"].shape, generator=torch.Generator().manual_seed(1))
    made = compose(params, shape)
    named = {"targets": made.targets, "sources": made.sources, "privates": made.privates, "weights": made.weights}
    return {name: t[0].double() for name, t in named.items() if t is not None}


@pytest.mark.parametrize(
    ("composition", "sources", "private"),
    [("spp", 3, True), ("scp", 2, True), ("inside", 3, True), ("inside", 2, False)],
)
def test_similarities_and_their_weighted_mean_are_the_loops(composition: str, sources: int, private: bool) -> None:
    tensors = parts(composition, sources, private=private)
    found = anatomy(tensors, ["a", "b", "c"], None)
    assert found.sources == [f"S{i + 1}" for i in range(sources)]
    total = 0.0
    for t in range(3):
        target = mean_of_tokens(tensors["targets"][t])
        for j in range(sources):
            expected = cosine(target, mean_of_tokens(tensors["sources"][j]))
            assert found.similarity is not None
            assert float(found.similarity[t, j]) == pytest.approx(expected, abs=1e-12)
            total += float(tensors["weights"][t, j]) * expected
        if private:
            assert found.to_private is not None
            expected = cosine(target, mean_of_tokens(tensors["privates"][t]))
            assert float(found.to_private[t]) == pytest.approx(expected, abs=1e-12)
        for u in range(3):
            pairs = zip(tensors["targets"][t].tolist(), tensors["targets"][u].tolist(), strict=True)
            cosines = [cosine(a, b) for a, b in pairs]
            assert float(found.tokens[t, u]) == pytest.approx(sum(cosines) / len(cosines), abs=1e-12)
    assert found.weighted == pytest.approx(100 / 3 * total, abs=1e-9)
    assert (found.to_private is not None) == private


def test_weighted_similarity_is_100_for_one_shared_source_and_undefined_without_any() -> None:
    for composition in ("inside", "mst"):
        assert anatomy(parts(composition, 1, private=False), ["a", "b", "c"], None).weighted == pytest.approx(100)
    alone = anatomy(parts("pt", 0, private=True), ["a", "b", "c"], None)
    assert alone.weighted is None and alone.similarity is None and alone.weights is None
    assert alone.to_private is not None and torch.allclose(alone.to_private, torch.ones(3, dtype=torch.float64))
    assert weighted_similarity(None, torch.ones(1, 1)) is None
    # a private prompt's share is no reliance on sources
    assert weighted_similarity(torch.tensor([[0.25], [0.75]]), torch.ones(2, 1)) == pytest.approx(50)


def test_prompts_in_half_precision_are_compared_in_double() -> None:
    targets = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    same = token_similarities(targets)
    assert same.dtype == torch.float64
    assert torch.allclose(same, token_similarities(targets.double()))
    assert torch.allclose(same.diagonal(), torch.ones(2, dtype=torch.float64))


def test_the_names_of_source_tasks_are_the_sources() -> None:
    found = anatomy(parts("inside", 2, private=True), ["a", "b", "c"], ["rte", "qnli"])
    assert found.sources == ["rte", "qnli"] and found.tasks == ["a", "b", "c"]


def test_recalls() -> None:
    counts = {"yes": {"yes": 3, "no": 1}, "no": {"maybe": 2}, "never": {}}
    assert recalls(counts) == {"yes": 75.0, "no": 0.0, "never": None}


def test_real_t5_base_prompts_are_as_alike_as_is_known() -> None:
    folder = real("t5-base-prompts")
    if folder is None:
        pytest.skip("no trained t5-base prompts in COMPT_FAST_SHARED")
    names = ("mnli", "qnli", "qqp")
    prompts = torch.stack([read_foreign(folder / f"{name}_prompt.pt").values for name in names])
    assert prompts.shape == (3, 100, 768)
    found = mean_cosine(prompts, prompts)
    assert [round(float(found[i, j]), 2) for i, j in ((0, 1), (0, 2), (1, 2))] == [0.89, 0.61, 0.65]
