"""What presets say of compositions and encoders without torch is what these are."""

from __future__ import annotations

import pytest

from compt_fast.config.choices import HIDDEN
from compt_fast.config.presets import PRESETS
from compt_fast.prompts.compositions import COMPOSITIONS
from compt_fast.prompts.encoders import ENCODERS


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_of_its_composition(name: str) -> None:
    preset = PRESETS[name]
    rule = COMPOSITIONS[preset.composition]
    assert preset.has_gates() == rule.gated
    assert preset.mixes() == (rule.sources == "many")
    assert preset.updates() == (rule.input_update is not None) and preset.updates_by_place() == rule.by_place
    assert preset.trains_sources() == (rule.sources != "none" and preset.learn_sources)
    assert rule.private in (None, preset.private)


def test_the_encoders_with_a_hidden_layer() -> None:
    assert set(HIDDEN) == {name for name, encoder in ENCODERS.items() if encoder.hidden}
