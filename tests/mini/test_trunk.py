"""The shipped trunk: small, loadable, and able to do its skills."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, T5ForConditionalGeneration

import compt_fast.mini
from compt_fast.mini.styles import STYLES
from tools.trunk_report import skill_accuracies

WEIGHTS = Path(compt_fast.mini.__file__).parent / "weights"
REPORTED = json.loads((WEIGHTS / "report.json").read_text())["skills"]
# What the suites' tasks need of the trunk, in percent under its own instructions.
RELATIONAL, SENTIMENT = 85.0, 95.0


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


@pytest.mark.parametrize("skill", STYLES)
def test_skill_reaches_the_bar(skill: str, accuracies: dict[str, float]) -> None:
    bar = SENTIMENT if skill == "sentiment" else RELATIONAL
    assert accuracies[skill] >= bar
    assert REPORTED[skill] >= bar
