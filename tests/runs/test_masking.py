"""Ablations by masking: which masks there are, and where their scores are kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from compt_fast import train
from compt_fast.evaluation.evaluator import Predicted
from compt_fast.evaluation.passes import Asked
from compt_fast.prompts.routing import Mask
from compt_fast.prompts.shape import PromptShape
from compt_fast.runs.loaded import load_job
from compt_fast.runs.masking import Way, masked_scores, named_masks, read_masked, write_masked
from compt_fast.utils.errors import InputError
from tests.helpers import jobs

SPP = PromptShape("spp", 2, 3, True, 2, 32)
SLN = PromptShape("inside", 2, 3, False, 2, 32)


def on(*sources: bool, private: bool = False) -> Mask:
    return Mask(sources, private)


def test_each_source_all_sources_the_private_and_the_whole() -> None:
    assert named_masks(SPP) == {
        "source-1": on(True, False, False),
        "source-2": on(False, True, False),
        "source-3": on(False, False, True),
        "sources": on(True, True, True),
        "private": on(False, False, False, private=True),
        "total": None,
    }


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        (SLN, ["source-1", "source-2", "source-3", "total"]),
        (PromptShape("inside", 2, 1, True, 2, 32), ["source-1", "private", "total"]),
        (PromptShape("inside", 2, 1, False, 2, 32), ["total"]),
        (PromptShape("mst", 2, 1, False, 2, 32), ["total"]),
        (PromptShape("pt", 2, 0, True, 2, 32), ["total"]),
    ],
)
def test_no_mask_is_named_twice(shape: PromptShape, names: list[str]) -> None:
    assert list(named_masks(shape)) == names
    if shape.sources < 2:
        assert list(named_masks(shape, "subsets")) == names


def test_every_subset() -> None:
    named = named_masks(SPP, "subsets")
    assert len(named) == 16 - 1, "of 4 prompts every subset but the empty one"
    assert named["source-1+3"] == on(True, False, True)
    assert named["private+source-2+3"] == on(False, True, True, private=True)
    assert named["sources"] == on(True, True, True) and named["total"] is None
    masks = [mask for mask in named.values() if mask is not None]
    assert len({(mask.sources, mask.private) for mask in masks}) == len(masks)
    assert len(named_masks(SLN, "subsets")) == 7


@pytest.fixture(scope="module")
def trained(tiny_t5: Path, toys: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("masked") / "run"
    chosen = jobs.settings(tiny_t5, toys, method="spp,slp,pt-joint,scp", sources=2, scoring="generate", steps=3)
    assert train.main(jobs.arguments(chosen, out)) == 0
    return out


def test_total_is_what_the_training_scored(trained: Path) -> None:
    results = {run["id"]: run for run in jobs.results(trained)["runs"]}
    content = masked_scores(load_job(trained, {}), results, "each", Way())
    assert content.keys() == results.keys()
    for name, masks in content.items():
        assert masks["total"]["tasks"] == results[name]["tasks"]
        assert masks["total"]["average"] == results[name]["average"]
        for scores in masks.values():
            for task in scores["tasks"].values():
                assert sum(sum(counts.values()) for counts in task["predictions"].values()) == task["n"] == 6
    assert list(content["spp-n2-k4-s0"]) == ["source-1", "source-2", "sources", "private", "total"]
    spp = content["spp-n2-k4-s0"].values()
    predictions = [[task["predictions"] for task in scores["tasks"].values()] for scores in spp]
    assert any(other != predictions[-1] for other in predictions[:-1]), "masks change what is predicted"


def test_each_way_scores_the_prompts_that_it_masks(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of a source alone, and the length of what is left of a concatenation."""
    seen: list[dict[str, Any]] = []

    def note(data: Any, asked: Iterable[Asked], **named: Any) -> Iterator[tuple[Asked, Predicted]]:
        for each in asked:
            seen.append(each.prompts.tensors)
            yield each, [["good"] * len(of.golds) for of in each.sets]

    monkeypatch.setattr("compt_fast.runs.loaded.predict", note)
    loaded = load_job(trained, {})
    for way in (Way(), Way("after"), Way("after", "remove")):
        masked_scores(loaded, ["spp-n2-k4-s0", "scp-n2-k4-s0"], "each", way)
    before, after, removed = (dict(zip(NAMES, seen[k : k + 10], strict=True)) for k in (0, 10, 20))
    whole = after["spp total"]["weights"]
    assert before["spp source-1"]["weights"].tolist() == [[1.0, 0.0]] * len(whole)
    assert torch.equal(after["spp source-1"]["weights"], whole * torch.tensor([1.0, 0.0]))
    assert removed["spp private"]["targets"].shape == after["spp private"]["targets"].shape
    for name in ("scp source-1", "scp sources", "scp private"):
        zeros, short = after[name]["targets"], removed[name]["targets"]
        assert zeros.shape[1] == 4 and short.shape[1] == 2
        left = zeros[:, 2:] if name == "scp private" else zeros[:, :2]
        assert torch.equal(short, left)
    assert torch.equal(removed["scp total"]["targets"], after["scp total"]["targets"])


NAMES = [f"{m} {mask}" for m in ("spp", "scp") for mask in ("source-1", "source-2", "sources", "private", "total")]


def test_a_removed_half_scores_otherwise_than_one_of_zeros(trained: Path) -> None:
    """Through the trunk, whose prompts are then of another length."""
    scored = [
        masked_scores(load_job(trained, {}), ["scp-n2-k4-s0"], "each", Way(tokens=tokens))["scp-n2-k4-s0"]
        for tokens in ("zero", "remove")
    ]
    assert scored[0]["total"] == scored[1]["total"]
    assert all(scored[0][name] != scored[1][name] for name in ("sources", "private"))


def test_scores_are_added_to_the_file_each_way_apart(tmp_path: Path) -> None:
    assert read_masked(tmp_path) == {}
    runs = (("a", 1.0, Way()), ("b", 2.0, Way()), ("a", 3.0, Way()), ("a", 4.0, Way("after")))
    for name, average, way in runs:
        write_masked(tmp_path, way, {name: {"total": {"tasks": {}, "average": average}}})
    found = {
        way: {n: masks["total"]["average"] for n, masks in of.items()} for way, of in read_masked(tmp_path).items()
    }
    assert found == {Way(): {"a": 3.0, "b": 2.0}, Way("after"): {"a": 4.0}}


def test_a_file_of_the_first_format_is_of_the_default_way(tmp_path: Path) -> None:
    runs = {"a": {"total": {"tasks": {}, "average": 1.0}}}
    (tmp_path / "masked.json").write_text(json.dumps({"format": 1, "how": "before", "runs": runs}))
    assert read_masked(tmp_path) == {Way(): runs}
    write_masked(tmp_path, Way("after"), runs)
    assert read_masked(tmp_path) == {Way(): runs, Way("after"): runs}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not well-formed json"),
        ("[]", "not the masked scores of a run folder"),
        ("{}", "masked scores of format None, not 2"),
        (json.dumps({"format": 2, "ways": [{"how": "never", "tokens": "zero", "runs": {}}]}), "masking 'never'"),
        (json.dumps({"format": 3, "ways": []}), "of format 3, not 2"),
    ],
)
def test_a_damaged_file(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "masked.json").write_text(text)
    with pytest.raises(InputError, match=rf"masked\.json: .*{message}|{message}"):
        read_masked(tmp_path)
