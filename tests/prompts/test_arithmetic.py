"""Sums and differences of stored prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compt_fast.prompts.arithmetic import Term, combined, terms_of
from compt_fast.prompts.artifact import TextFormat, TrunkId
from compt_fast.prompts.store import StoredPrompt
from compt_fast.tasks.table import TASKS
from compt_fast.utils.errors import InputError

NAMES = ["a", "b", "mnli-m10", "mnli", "b-c", "2b", "x+y"]
TRUNK = TrunkId("t5-base", "ab" * 32, "fp32")


def entry(name: str, task: str = "rte", length: int = 3, **changes: Any) -> StoredPrompt:
    values = torch.randn(length, 4, generator=torch.Generator().manual_seed(sum(map(ord, name))))
    text = TextFormat(True, "prepend", 64, "natural")
    return replace(StoredPrompt(name, task, TRUNK, values, text=text, definition=TASKS.get(task)), **changes)


@pytest.mark.parametrize(
    ("formula", "terms"),
    [
        ("a", [(1, "a")]),
        (" - a ", [(-1, "a")]),
        ("a + 0.5*b - mnli-m10", [(1, "a"), (0.5, "b"), (-1, "mnli-m10")]),
        ("a+b-mnli-m10", [(1, "a"), (1, "b"), (-1, "mnli-m10")]),
        ("b-c", [(1, "b-c")]),
        ("b - a", [(1, "b"), (-1, "a")]),
        ("2*2b-.5e1 * x+y+a", [(2, "2b"), (-5, "x+y"), (1, "a")]),
        ("a + a", [(1, "a"), (1, "a")]),
    ],
)
def test_formulas_are_read(formula: str, terms: list[tuple[float, str]]) -> None:
    assert terms_of(formula, NAMES, "S") == [Term(*term) for term in terms]


@given(st.lists(st.tuples(st.floats(0.01, 99), st.sampled_from("+-"), st.sampled_from(NAMES)), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_what_is_written_with_blanks_is_read_back(terms: list[tuple[float, str, str]]) -> None:
    formula = " ".join(f"{sign} {factor!r}*{name}" for factor, sign, name in terms)
    wanted = [Term(factor if sign == "+" else -factor, name) for factor, sign, name in terms]
    assert terms_of(formula, NAMES, "S") == wanted


@pytest.mark.parametrize(
    ("formula", "says"),
    [
        ("a + mnli-m1", "unknown prompt in the store S 'mnli-m1'. Did you mean 'mnli-m10'?"),
        ("a+mnly-b", "unknown prompt in the store S 'mnly-b'. Did you mean 'mnli'?"),
        ("0.5*mnly", "Did you mean 'mnli'?"),
        ("a b", "cannot be read from 'b' on"),
        ("a +", "cannot be read from '+' on"),
        ("", "'': ends too early"),
        ("a + (b)", "cannot be read from '+ (b)' on; a formula is NAME or NUMBER*NAME"),
        ("a*0.5", "cannot be read from 'a*0.5' on"),
        ("1e999*a", "the factor 1e999 of a is not finite"),
        ("__import__('os')", "unknown prompt in the store S '__import__'"),
    ],
)
def test_what_is_no_formula_is_named(formula: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        terms_of(formula, NAMES, "S")
    assert says in str(error.value)


def test_a_store_without_prompts_has_no_name() -> None:
    with pytest.raises(InputError, match="unknown prompt in the store S 'a'"):
        terms_of("a", [], "S")


def sum_of(formula: str, *entries: StoredPrompt, task: str | None = None) -> StoredPrompt:
    known = {one.name: one for one in entries}
    return combined(terms_of(formula, known, "S"), known, "new", task)


def test_the_sum_is_the_loops_and_says_what_it_was_made_of() -> None:
    a, b, c = entry("a"), entry("b", "sst2"), entry("c", "cola")
    made = sum_of("a + 0.5*b - 2*c", a, b, c)
    for token in range(3):
        for at in range(4):
            wanted = float(a.values[token, at]) + 0.5 * float(b.values[token, at]) - 2 * float(c.values[token, at])
            assert made.values[token, at] == torch.tensor(wanted, dtype=torch.float64).float()
    assert made.training == {"combined": "a + 0.5*b - 2*c", "of": {one.name: one.sha256 for one in (a, b, c)}}
    assert (made.tasks, made.definition, made.others) == (("rte", "sst2"), TASKS["rte"], {"sst2": TASKS["sst2"]})
    assert (made.trunk, made.text, made.encoder, made.score) == (TRUNK, a.text, "none", None)


def test_a_task_may_be_said_and_one_that_is_taken_away_is_none() -> None:
    a, b = entry("a"), entry("b", "sst2")
    assert sum_of("a - b", a, b).tasks == ("rte",)
    made = sum_of("- a - b", a, b, task="cola")
    assert made.tasks == ("cola",) and made.definition == TASKS["cola"] and made.training["combined"] == "- a - b"
    with pytest.raises(InputError, match="no task follows from them: say --task"):
        sum_of("- a - b", a, b)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"length": 5}, "a and b have 3 tokens of width 4 and 5 tokens of width 4: only prompts of one length"),
        ({"trunk": TrunkId("t5-small", "cd" * 32, "fp32")}, "belong to the trunks t5-base and t5-small"),
        ({"trunk": TrunkId("t5-small")}, "belong to the trunks t5-base and t5-small"),
        ({"text": TextFormat(False, "prepend", 64, "natural")}, "answer unlike texts"),
    ],
)
def test_what_cannot_be_added_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        sum_of("a + b", entry("a"), entry("b", **changes))


@pytest.mark.parametrize("trunk", [TrunkId("t5-base"), TrunkId("t5-base", "ee" * 32, "bf16")])
def test_hashes_that_say_nothing_of_each_other_stand_in_no_sums_way(trunk: TrunkId) -> None:
    assert sum_of("a + b", entry("a"), entry("b", trunk=trunk)).trunk == TRUNK
