"""Ablations by masking: which masks there are, and where their scores are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compt_fast import train
from compt_fast.errors import InputError
from compt_fast.fleet.masking import masked_scores, named_masks, read_masked, write_masked
from compt_fast.fleet.reopened import reopen
from compt_fast.prompts.routing import Mask
from compt_fast.prompts.shape import PromptShape
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
    chosen = jobs.settings(tiny_t5, toys, method="spp,slp,pt", sources=2, scoring="generate", steps=3)
    assert train.main(jobs.arguments(chosen, out)) == 0
    return out


def test_total_is_what_the_training_scored(trained: Path) -> None:
    results = {run["id"]: run for run in jobs.results(trained)["runs"]}
    content = masked_scores(reopen(trained, {}), results, "each")
    assert content["runs"].keys() == results.keys()
    for name, masks in content["runs"].items():
        assert masks["total"]["tasks"] == results[name]["tasks"]
        assert masks["total"]["average"] == results[name]["average"]
        for scores in masks.values():
            for task in scores["tasks"].values():
                assert sum(sum(counts.values()) for counts in task["predictions"].values()) == task["n"] == 6
    assert list(content["runs"]["spp-n2-k4-s0"]) == ["source-1", "source-2", "sources", "private", "total"]
    spp = content["runs"]["spp-n2-k4-s0"].values()
    predictions = [[task["predictions"] for task in scores["tasks"].values()] for scores in spp]
    assert any(other != predictions[-1] for other in predictions[:-1]), "masks change what is predicted"


def test_scores_are_added_to_the_file(tmp_path: Path) -> None:
    assert read_masked(tmp_path) is None
    for name, average in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        runs = {name: {"total": {"tasks": {}, "average": average}}}
        write_masked(tmp_path, {"format": 1, "how": "before", "runs": runs})
    content = read_masked(tmp_path)
    assert content is not None
    assert {name: masks["total"]["average"] for name, masks in content["runs"].items()} == {"a": 3.0, "b": 2.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not well-formed json"),
        ("[]", "not the masked scores of a run folder"),
        ("{}", "masked scores of format None, not 1"),
        (json.dumps({"format": 2, "runs": {}}), "of format 2, not 1"),
    ],
)
def test_a_damaged_file(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "masked.json").write_text(text)
    with pytest.raises(InputError, match=rf"masked\.json: .*{message}|{message}"):
        read_masked(tmp_path)
