"""Skills of reading: the label is what the texts say."""

from __future__ import annotations

import re
from random import Random

import pytest

from compt_fast.mini import comprehension as skills
from compt_fast.mini.lexicon import ANIMATE, PLACES
from compt_fast.mini.skills import Skill, Texts

SKILLS = (
    *(skills.polar, skills.choice, skills.answer, skills.candidate),
    *(skills.cloze, skills.coreference, skills.same_role),
)
CONCEPTS = {spelling: concept for concept, spellings in ANIMATE.items() for spelling in spellings}


def drawn(skill: Skill, label: int, count: int = 60) -> list[Texts]:
    rng = Random(f"{skill.__name__} {label}")
    return [skill(rng, "train", label) for _ in range(count)]


def people(text: str) -> list[str]:
    """Who is named in a text, as concepts, in order."""
    return [CONCEPTS[word] for word in re.findall(r"[a-z]+", text) if word in CONCEPTS]


def does(sentence: str) -> list[str]:
    """Who does it and to whom, of a sentence that names both."""
    named = people(sentence)
    return named[::-1] if " was " in f" {sentence}" else named


@pytest.mark.parametrize("skill", SKILLS)
@pytest.mark.parametrize("label", [0, 1])
def test_texts_are_whole(skill: Skill, label: int) -> None:
    for texts in drawn(skill, label):
        assert all(text and text == " ".join(text.split()) for text in texts)
        assert all("{" not in text and "the _" not in text.replace("the _ ", "") for text in texts)


def test_a_gap_is_filled_by_who_is_not_named_beside_it() -> None:
    for label in (0, 1):
        for query, entity, passage in drawn(skills.candidate, label):
            (named,) = people(query)
            assert query.count("_") == 1 and entity in people(passage)
            assert (entity != named) == (label == 1)
        for sentence, *options in drawn(skills.cloze, label):
            first, second = sentence.removesuffix(".").split(". ")
            (named,) = people(second)
            assert options[label] != named == options[1 - label] and set(options) == set(people(first))
        for (text,) in drawn(skills.coreference, label):
            marked = re.findall(r"_ ([a-z]+) _", text)
            assert len(marked) == 2 and marked[1] == "it"
            assert (CONCEPTS[marked[0]] == people(text)[-1]) == (label == 0)


def test_a_word_has_the_same_role_in_both_sentences_or_not() -> None:
    for label in (0, 1):
        for one, other, word in drawn(skills.same_role, label):
            roles = [does(sentence).index(word) for sentence in (one, other)]
            assert (roles[0] == roles[1]) == (label == 1)


def test_the_right_answer_stands_in_the_paragraph_and_not_in_the_question() -> None:
    for question, answer, paragraph in drawn(skills.answer, 1):
        noun = answer.removeprefix("the ")
        assert noun in (PLACES if question.startswith("where") else people(paragraph))
        assert noun not in question.split()


def test_the_right_choice_says_what_the_premise_says() -> None:
    for label in (0, 1):
        for premise, question, *choices in drawn(skills.choice, label):
            right = choices[label]
            assert question == "same" and right != premise and len(set(choices)) == 2
            assert does(right) == does(premise) and (" not " in right) == (" not " in premise)
