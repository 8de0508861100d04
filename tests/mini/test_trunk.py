"""The shipped trunk: small, loadable, and able to do what its report says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, T5ForConditionalGeneration

import compt_fast.mini
from compt_fast.mini.report import skill_accuracies

WEIGHTS = Path(compt_fast.mini.__file__).parent / "weights"
REPORTED = json.loads((WEIGHTS / "report.json").read_text())["skills"]
# Two samples, 400 examples in the report and 300 here: at 75 % their difference has a standard deviation of 3.3 points.
TOLERANCE = 8.0


def test_weights_folder_is_small_and_plain() -> None:
    files = list(WEIGHTS.iterdir())
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors"}


@pytest.fixture(scope="module")
def accuracies() -> dict[str, float]:
    model, tokenizer = T5ForConditionalGeneration.from_pretrained(WEIGHTS), AutoTokenizer.from_pretrained(WEIGHTS)
    assert 2e6 <= sum(p.numel() for p in model.parameters()) <= 6e6
    assert model.config.tie_word_embeddings and not model.config.is_gated_act
    return skill_accuracies(model, tokenizer, 300, seed=1)


@pytest.mark.parametrize("skill", REPORTED)
def test_skill_is_as_reported(skill: str, accuracies: dict[str, float]) -> None:
    assert accuracies[skill] >= REPORTED[skill] - TOLERANCE
