"""Meanings, their wordings, and labels that follow from them, on cases made by hand."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from compt_fast.mini import lexicon, skills
from compt_fast.mini.grammar import Event, question, question_split, replace_slot, statement
from compt_fast.mini.lexicon import split_of

EVENT = Event("nurse", "follow", "king", place="park", time="at noon")


class First(Random):
    """Draws the first choice and shuffles nothing, so that wordings are known."""

    def choice(self, seq):  # type: ignore[no-untyped-def]
        return seq[0]

    def shuffle(self, x) -> None:  # type: ignore[no-untyped-def]
        pass


def test_wordings_of_one_event() -> None:
    say = lambda event, passive, fronted: statement(event, First(), passive=passive, fronted=fronted)  # noqa: E731
    assert say(EVENT, False, False) == "the nurse followed the king in the park at noon."
    assert say(EVENT, True, True) == "in the park the king was followed by the nurse at noon."
    assert say(replace(EVENT, negated=True, place=""), False, False) == "the nurse did not follow the king at noon."
    assert say(Event("cat", "join", "dog", "old", generic=True), False, False) == "old cats join dogs."
    assert say(Event("cat", "join", "dog", generic=True, negated=True), True, False) == "dogs are not joined by cats."


def test_questions_leave_out_what_they_ask() -> None:
    event = replace(EVENT, time="")
    assert question(event, "agent", First(), passive=False) == "who followed the king in the park?"
    assert question(event, "patient", First(), passive=True) == "who was followed by the nurse in the park?"
    assert question(event, "place", First(), passive=False) == "where did the nurse follow the king?"
    assert question(event, "polar", First(), passive=True) == "was the king followed by the nurse in the park?"


def test_swapping_roles_swaps_their_adjectives() -> None:
    event = Event("nurse", "help", "king", "old", "poor")
    assert event.swapped() == Event("king", "help", "nurse", "poor", "old")
    assert event.swapped().swapped() == event


def test_split_is_of_the_meaning_not_the_order() -> None:
    assert EVENT.split == EVENT.swapped().split == replace(EVENT, negated=True, place="").split
    kinds = [split_of(a, b, "help") for a in lexicon.ANIMATE for b in lexicon.ANIMATE if a < b]
    shares = [kinds.count(split) / len(kinds) for split in lexicon.SPLITS]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.05)


@pytest.mark.parametrize("split", lexicon.SPLITS)
@pytest.mark.parametrize("slot", ["agent", "verb", "patient"])
def test_every_slot_of_every_event_can_be_replaced_within_its_split(slot: str, split: str) -> None:
    for agent in lexicon.ANIMATE:
        for verb in lexicon.SOCIAL_VERBS:
            event = Event(agent, verb, "king" if agent != "king" else "dog")
            if event.split == split:
                other = replace_slot(event, slot, Random(0))
                assert other.split == split and getattr(other, slot) not in (event.agent, event.patient, event.verb)


def test_questions_of_a_split_name_only_what_is_its_own() -> None:
    one, other = Event("nurse", "help", "king"), Event("cat", "help", "king")
    assert question_split(one, "agent") == question_split(other, "agent")
    assert question_split(one, "polar") == one.split


def draws(skill: skills.Skill, label: int, count: int = 200) -> list[skills.Texts]:
    rng = Random(5)
    return [skill(rng, "pretrain", label) for _ in range(count)]


def content(text: str) -> list[str]:
    """A sentence's words without grammar and inflection, synonyms made one."""
    concept = {
        s: c for group in (lexicon.NOUNS, lexicon.VERBS, lexicon.ADJECTIVES) for c, g in group.items() for s in g
    }
    concept |= {lexicon.past(s): c for c, g in lexicon.VERBS.items() for s in g}
    grammar = {"the", "was", "by", "did", "not", "who", "whom", "where"}
    return sorted(concept.get(w, w) for w in text.strip(".?").split() if w not in grammar)


def test_adversarial_pairs_hold_the_same_words() -> None:
    for label in (0, 1):
        for first, second in draws(skills.adversarial_paraphrase, label):
            assert content(first) == content(second)


def test_paraphrases_hold_the_same_words() -> None:
    for first, second in draws(skills.paraphrase, 1):
        assert content(first) == content(second) and first != second


def test_similarity_counts_shared_parts() -> None:
    for label in range(6):
        for first, second in draws(skills.similarity, label, 50):
            shared = set(content(first)) & set(content(second)) - {"in", "at", "on"}
            assert len(shared) >= label


def test_entailed_hypotheses_say_nothing_new() -> None:
    for premise, hypothesis in draws(skills.inference, skills.ENTAILMENT):
        assert set(content(hypothesis)) <= set(content(premise))
        assert ("not" in premise.split()) == ("not" in hypothesis.split())


def test_contradictions_deny_or_replace() -> None:
    for premise, hypothesis in draws(skills.inference, skills.CONTRADICTION):
        denied = ("not" in premise.split()) != ("not" in hypothesis.split())
        new = set(content(hypothesis)) - set(content(premise))
        assert denied or (len(new) == 1 and new <= set(lexicon.PLACES) | set(lexicon.ANTONYM))


def test_one_event_labelled_each_way() -> None:
    event = Event("nurse", "help", "king")
    premise, hypothesis = skills._by_role(event, skills.NEUTRAL, Random(1))
    assert (
        {hypothesis.agent, hypothesis.patient} != {"nurse", "king"}
        or hypothesis.agent == "king"
        or (hypothesis.verb != "help")
    )
    premise, hypothesis = skills._by_role(event, skills.CONTRADICTION, Random(1))
    assert premise.negated != hypothesis.negated
    premise, hypothesis = skills._by_adjective(event, skills.CONTRADICTION, Random(1))
    said = premise.agent_adjective or premise.patient_adjective
    assert lexicon.ANTONYM[said] in (hypothesis.agent_adjective, hypothesis.patient_adjective)


def test_acceptability_errors_are_errors() -> None:
    """A right sentence counts right: determiner, noun and verb agree in number."""
    plurals = {lexicon.plural(s) for g in lexicon.NOUNS.values() for s in g}
    for label in (0, 1):
        for (text,) in draws(skills.acceptability, label):
            words = text.strip(".").split()
            fits = True
            for determiner, many in (("one", False), ("this", False), ("two", True), ("these", True)):
                for i, word in enumerate(words[:-1]):
                    noun = words[i + 1] if words[i + 1] not in _adjectives() else (words + [""])[i + 2]
                    if word == determiner and (noun in plurals) != many:
                        fits = False
            assert fits or label == 0


def _adjectives() -> set[str]:
    return {s for g in lexicon.ADJECTIVES.values() for s in g}


def test_later_clause_of_a_contrast_decides() -> None:
    good = set(lexicon.GOOD) | set(lexicon.LIKING)
    bad = set(lexicon.BAD) | set(lexicon.DISLIKING)
    for (text,) in draws(skills.sentiment, 1):
        last = text.strip(".").split(" but ")[-1].split() if " but " in text else []
        if last:
            assert bool(good & set(last)) != ("not" in last)
            assert bool(good & set(last)) != bool(bad & set(last))
