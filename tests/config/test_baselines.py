"""What baselines say of themselves without torch."""

from __future__ import annotations

import pytest

from compt_fast.config.baselines import BASELINES, METHODS
from compt_fast.config.presets import PRESETS
from compt_fast.config.run import RUN_FLAGS

OF_PROMPTS = {"sources", "encoder", "router", "normalisation", "gates", "init", "init_range", "lr_source", "lr_private"}


def test_all_methods_are_presets_and_baselines() -> None:
    assert METHODS.keys() == PRESETS.keys() | BASELINES.keys()
    assert not PRESETS.keys() & BASELINES.keys()
    assert {name for name, preset in METHODS.items() if preset.trains_weights()} == BASELINES.keys()


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_trains_weights_and_no_prompts(name: str) -> None:
    preset = BASELINES[name]
    used = {flag.field for flag in RUN_FLAGS.values() if flag.used(preset)}
    assert not used & OF_PROMPTS and {"lr_weights", "shots", "seed", "epochs", "weight_decay"} <= used
    assert preset.apart is not name.endswith("-m")
    assert ("prompt_length" in used) == (name in ("prefix", "p-tuning"))
