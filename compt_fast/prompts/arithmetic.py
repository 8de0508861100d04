"""Sums and differences of stored prompts: `mnli + 0.5*qnli - sst2`.

Task prompt vectors (arXiv 2408.01119) are what a training added to the prompt that it began with, and the paper adds
and subtracts those. A store knows no beginnings, so it is the prompts themselves that are combined; where some began
alike and what they began with is an entry too, say `start`, the sum of two tasks' vectors on it is `a + b - start`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

import torch

from compt_fast.prompts.store import StoredPrompt
from compt_fast.tasks.table import TASKS, Task
from compt_fast.utils.errors import InputError, unknown
from compt_fast.utils.words import listed

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_BEFORE = rf"\s*([+-]?)\s*(?:({_NUMBER})\s*\*\s*)?"
_NAME = re.compile(r"\w[\w.+-]*")


class Term(NamedTuple):
    """A stored prompt of a sum, and what it is multiplied by."""

    factor: float
    name: str


def terms_of(formula: str, names: Collection[str], store: str) -> list[Term]:
    """The terms of a `formula`: names of a store's entries, each with a number and * before it or not, and between them
    + or -. As names hold both signs, the longest name that fits is read: put blanks around a sign.

    Raises `InputError` that names what cannot be read, and for a name that the store called `store` has not.
    """
    known = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)) or r"(?!)"
    term = re.compile(rf"{_BEFORE}({known})(?=[\s+-]|$)")
    terms: list[Term] = []
    at = 0
    while formula[at:].strip() or not terms:
        match = term.match(formula, at)
        if match is None or (terms and not match[1]):
            raise _unread(formula, at, names, store)
        sign, number, name = match.groups()
        factor = float(number or 1) * (-1 if sign == "-" else 1)
        if not math.isfinite(factor):
            raise InputError(f"{formula!r}: the factor {number} of {name} is not finite")
        terms.append(Term(factor, name))
        at = match.end()
    return terms


def _unread(formula: str, at: int, names: Collection[str], store: str) -> InputError:
    """What is wrong with the rest of a formula."""
    rest = formula[at:].strip()
    before = re.compile(_BEFORE).match(formula, at)
    assert before is not None  # all of it may be lacking
    named = _NAME.match(formula, before.end())
    if named and named[0] not in names and (at == 0 or before[1]):
        # of mnli-m1, where mnli is there, the whole may be what was meant
        whole = _NAME.findall(formula, 0, named.end())[-1]
        return unknown(f"prompt in the store {store}", whole if get_close_matches(whole, names) else named[0], names)
    says = "a formula is NAME or NUMBER*NAME, and more of them after + or -, as in 'a + 0.5*b - c'"
    return InputError(f"{formula!r}: {f'cannot be read from {rest!r} on' if rest else 'ends too early'}; {says}")


def combined(terms: Sequence[Term], entries: Mapping[str, StoredPrompt], name: str, task: str | None) -> StoredPrompt:
    """The prompt that `terms` of `entries` add up to, in fp64 and then fp32, as an entry called `name`.

    It is of the `task`; without one, of the tasks that are added rather than subtracted, which share it. Raises
    `InputError` for prompts of unlike length, width, trunk or text format, and where nothing is added and no task said.
    """
    first, *others = (entries[term.name] for term in terms)
    for other in others:
        _check_alike(first, other)
    values = torch.stack([term.factor * entries[term.name].values.double() for term in terms]).sum(0)
    defined = {of: None for term in terms if term.factor > 0 for of in entries[term.name].tasks}
    known: dict[str, Task | None] = {}
    for entry in entries.values():
        known |= {entry.task: entry.definition, **entry.others}
    tasks = list(defined) if task is None else [task]
    if not tasks:
        raise InputError("every term is subtracted, so that no task follows from them: say --task")
    definitions = {of: known.get(of) or TASKS.get(of) for of in tasks}
    made = " ".join(f"{'-' if term.factor < 0 else '+'} {_written(term)}" for term in terms)
    return StoredPrompt(
        name=name,
        task=tasks[0],
        trunk=first.trunk,
        values=values.float(),
        training={"combined": made.removeprefix("+ "), "of": {term.name: entries[term.name].sha256 for term in terms}},
        text=first.text,
        definition=definitions.pop(tasks[0]),
        others=definitions,
        after=first.after,
    )


def _written(term: Term) -> str:
    """A term without its sign."""
    factor = repr(abs(term.factor)).removesuffix(".0")
    return term.name if factor == "1" else f"{factor}*{term.name}"


def _check_alike(first: StoredPrompt, other: StoredPrompt) -> None:
    """Raise `InputError` unless two prompts can be added."""
    both = listed([first.name, other.name])
    if first.values.shape != other.values.shape:
        sizes = " and ".join(f"{entry.length} tokens of width {entry.d_model}" for entry in (first, other))
        raise InputError(f"{both} have {sizes}: only prompts of one length and width can be added")
    own, its = first.trunk, other.trunk
    hashed = own.dtype == its.dtype and own.sha256 and its.sha256  # hashes of other precisions say nothing
    if own.sha256 != its.sha256 if hashed else own.name != its.name:
        raise InputError(f"{both} belong to the trunks {own.name} and {its.name}, whose weights differ")
    if first.after != other.after:
        raise InputError(f"{both} stand before the prompts of other tasks ({first.after} and {other.after})")
    if not first.text.agrees(other.text):
        texts = f"{first.text} and {other.text}"
        raise InputError(f"{both} answer unlike texts (prefix, prompt position or label words): {texts}")
