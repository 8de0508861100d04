"""What is said of compositions without torch is what their rules are."""

from __future__ import annotations

import pytest

from compt_fast.config.compositions import COMPOSED, NO_PROMPT, composed
from compt_fast.prompts.compositions import COMPOSITIONS
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_facts_are_those_of_the_rule(name: str) -> None:
    rule, facts = COMPOSITIONS[name], composed(name)
    assert (facts.sources, facts.gated, facts.by_place) == (rule.sources, rule.gated, rule.by_place)
    assert facts.updates == (rule.input_update is not None)
    sources = {"none": 0, "one": 1}.get(rule.sources, 3)
    private = rule.private is not False
    # the update's sizes have no effect where there is none
    shape = PromptShape(name, 2, sources, private, 4, 8, encoder="none", update_rank=1, update_length=4)
    own = [one for one in rule.parameters(shape).values() if one.group == "private"]
    assert facts.factors == bool(own)


def test_every_composition_has_its_line() -> None:
    assert COMPOSED.keys() == {*COMPOSITIONS, NO_PROMPT}
    with pytest.raises(InputError, match="unknown composition 'sppp'. Did you mean 'spp'?"):
        composed("sppp")
