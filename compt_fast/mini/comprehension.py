"""Skills of reading on which the trunk was not trained, but which are made of those it was: who did what to whom.

They are the embedded kinds of SuperGLUE's tasks and WinoGrande. As in `skills`, each takes the wanted label, and what
rows of one question share is drawn before the label is looked at.
"""

from __future__ import annotations

from random import Random

from compt_fast.mini import lexicon
from compt_fast.mini.grammar import ASKED, Event, draw_event, question, question_split, statement
from compt_fast.mini.skills import Texts, changed_event, draw_voices

ROLES = ("agent", "patient")
GAP = "_"  # also the mark of a span; the embedded vocabulary has neither "*" nor "#"


def polar(rng: Random, split: str, label: int) -> Texts:
    """A question whether something happened, and a passage by which it did (1) or by which something else did (0)."""
    event = draw_event(rng, split, adverbs=0.2)
    told = event if label else changed_event(event, rng, slots=("agent", "verb", "patient"))
    voices = draw_voices(rng)
    passage = _passage(statement(told, rng, passive=voices[1]), told, split, rng)
    return question(event, "polar", rng, passive=voices[0]), passage


def choice(rng: Random, split: str, label: int) -> Texts:
    """A premise, the word "same", and two choices, of which the first (0) or the second (1) says the same."""
    event = draw_event(rng, split)
    other = changed_event(event, rng)
    while True:
        voices = draw_voices(rng)
        premise = statement(event, rng, passive=voices[0])
        right, wrong = (statement(said, rng, passive=voices[1]) for said in (event, other))
        if premise != right:
            return premise, "same", *((right, wrong) if label == 0 else (wrong, right))


def answer(rng: Random, split: str, label: int) -> Texts:
    """A question about who did it, whom or where, an answer that is right (1) or wrong (0), and a paragraph."""
    while True:
        event, asked = draw_event(rng, split, adverbs=1.0, adjectives=0.0), rng.choice(ASKED[:3])
        if question_split(event, asked) == split:
            break
    voices = draw_voices(rng)
    asking = question(event, asked, rng, passive=voices[0])
    paragraph = _passage(statement(event, rng, passive=voices[1]), event, split, rng)
    wrong = {"agent": event.patient, "patient": event.agent}.get(asked) or rng.choice(
        [place for place in lexicon.PLACES if place != event.place]
    )
    return asking, f"the {getattr(event, asked) if label else wrong}", paragraph


def candidate(rng: Random, split: str, label: int) -> Texts:
    """A sentence with a gap, somebody who fills it (1) or does not (0), and a passage that says who."""
    event, first, second, role = _with_gap(rng, split, GAP)
    passage = _passage(first, event, split, rng)
    return second, getattr(event, role if label else _other(role)), passage


def cloze(rng: Random, split: str, label: int) -> Texts:
    """Two sentences on one event, the second with a gap, and who may fill it: the first (0) or the second (1) does."""
    event, first, second, role = _with_gap(rng, split, GAP)
    right, wrong = getattr(event, role), getattr(event, _other(role))
    return f"{first} {second}", *((right, wrong) if label == 0 else (wrong, right))


def coreference(rng: Random, split: str, label: int) -> Texts:
    """Two sentences on one event with two marked spans: somebody in the first, who is (1) or is not (0) the "it" of
    the second.
    """
    event, first, second, role = _with_gap(rng, split, f"{GAP} it {GAP}")
    named = getattr(event, role if label else _other(role))
    return (f"{_put(first, named, GAP + ' {} ' + GAP)} {second}",)


def same_role(rng: Random, split: str, label: int) -> Texts:
    """Two sentences and a word whose role, who does it or to whom it is done, is one (1) or two (0)."""
    event = draw_event(rng, split)
    role = rng.choice(ROLES)
    word = getattr(event, role)
    there = role if label else _other(role)
    while True:
        other = Event("", rng.choice(list(lexicon.SOCIAL_VERBS)), "").with_words(
            {there: word, _other(there): rng.choice(list(lexicon.ANIMATE))}
        )
        if other.agent != other.patient and other.split == split and other.verb != event.verb:
            break
    return statement(event, rng), statement(other, rng), word


def _other(role: str) -> str:
    return ROLES[1 - ROLES.index(role)]


def _with_gap(rng: Random, split: str, gap: str) -> tuple[Event, str, str, str]:
    """An event, a sentence on it, another with `gap` where one of its participants stood, and that one's role."""
    event, role = draw_event(rng, split, adjectives=0.0), rng.choice(ROLES)
    voices = draw_voices(rng)
    first = statement(event, rng, passive=voices[0])
    second = _put(statement(event, rng, passive=voices[1]), getattr(event, role), gap).replace(f"the {gap}", gap)
    return event, first, second, role


def _put(text: str, noun: str, pattern: str) -> str:
    """`text` with `pattern` in place of the word for `noun`, which stands in it once; {} is that word."""
    words = text.removesuffix(".").split()
    return " ".join(pattern.format(word) if word in lexicon.ANIMATE[noun] else word for word in words) + "."


def _passage(sentence: str, event: Event, split: str, rng: Random) -> str:
    """A sentence on an event, and half of the time one on another event of others, before or after it."""
    sentences = [sentence]
    if rng.random() < 0.5:
        other = draw_event(rng, split)
        while {other.agent, other.patient} & {event.agent, event.patient}:
            other = draw_event(rng, split)
        sentences.insert(rng.randrange(2), statement(other, rng))
    return " ".join(sentences)
