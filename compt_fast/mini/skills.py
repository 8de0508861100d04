"""Labelled examples of every skill, built from meanings.

Each function takes the wanted label and returns the texts that carry it, so that balance is the caller's choice and
a label is never guessed from a wording. The wording (voice, order, synonyms) is drawn independently of the label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from compt_fast.mini import lexicon
from compt_fast.mini.grammar import (
    ASKED,
    Event,
    contrast,
    draw_event,
    opinion,
    question,
    question_split,
    replace_slot,
    statement,
)

Texts = tuple[str, ...]
Skill = Callable[[Random, str, int], Texts]
ENTAILMENT, NEUTRAL, CONTRADICTION = 0, 1, 2


# --- acceptability -------------------------------------------------------------------------------------------------

_SINGULAR = ("the", "one", "this")
_PLURAL = ("the", "two", "these")


def acceptability(rng: Random, split: str, label: int) -> Texts:
    """A present-tense sentence, right (1) or with one error (0)."""
    error = "" if label else rng.choice(("agreement",) * 3 + ("determiner",) * 2 + ("order",) * 4 + ("selection",))
    handling = error == "selection" or rng.random() < (0.35 if label else 0.28)  # equally often overall
    while True:
        agent = rng.choice(list(lexicon.ANIMATE))
        patient = rng.choice(list(lexicon.THINGS if handling else lexicon.ANIMATE))
        verb = rng.choice(list(lexicon.HANDLING_VERBS if handling else lexicon.SOCIAL_VERBS))
        if agent != patient and lexicon.split_of(agent, verb, patient) == split:
            break
    if error == "selection":
        agent, patient = patient, agent
    broken = rng.randrange(2) if error == "determiner" else -1
    subject, many = _counted(agent, rng, broken == 0)
    direct, _ = _counted(patient, rng, broken == 1)
    verb = lexicon.spell(verb, lexicon.VERBS, rng)
    if many == (error == "agreement"):
        verb += "s"
    words = _misordered(subject, verb, direct, rng) if error == "order" else [*subject, verb, *direct]
    if rng.random() < 0.3:
        words += ["in", "the", rng.choice(list(lexicon.PLACES))]
    return (" ".join(words) + ".",)


def _counted(noun: str, rng: Random, broken: bool) -> tuple[list[str], bool]:
    """A noun phrase with a determiner that fits its number, or with ``broken`` one that does not."""
    many = rng.random() < 0.5
    determiners = (_PLURAL if many else _SINGULAR) if not broken else (_SINGULAR if many else _PLURAL)[1:]
    name = lexicon.spell(noun, lexicon.NOUNS, rng)
    words = [rng.choice(determiners), lexicon.plural(name) if many else name]
    if rng.random() < 0.2:
        words.insert(1, lexicon.spell(rng.choice(list(lexicon.ADJECTIVES)), lexicon.ADJECTIVES, rng))
    return words, many


def _misordered(subject: list[str], verb: str, direct: list[str], rng: Random) -> list[str]:
    """The words of a sentence in one of three impossible orders."""
    kind = rng.randrange(3)
    if kind == 0:
        return [*subject[1:], subject[0], verb, *direct]
    if kind == 1:
        return [*subject, direct[0], verb, *direct[1:]]
    return [*subject, verb, *direct[1:], direct[0]]


# --- sentiment -----------------------------------------------------------------------------------------------------


def sentiment(rng: Random, split: str, label: int, topics: tuple[str, ...] = lexicon.FILM_TOPICS) -> Texts:
    """One sentence of opinion, positive (1) or negative (0)."""
    positive = label == 1
    kind = rng.random()
    if kind < 0.5:
        text = opinion(rng, split, positive, topics)
    elif kind < 0.65:
        text = contrast(rng, split, positive, topics)
    else:
        text = f"{opinion(rng, split, positive, topics)} and {opinion(rng, split, positive, topics)}"
    return (text + ".",)


def long_sentiment(rng: Random, split: str, label: int, topics: tuple[str, ...] = lexicon.FILM_TOPICS) -> Texts:
    """A short review: what happens, and two or three sentences of one opinion, contrasts included."""
    positive = label == 1
    sentences = [statement(draw_event(rng, split, adjectives=0.1), rng)]
    for _ in range(rng.choice((2, 2, 3))):
        clause = contrast if rng.random() < 0.12 else opinion
        sentences.append(clause(rng, split, positive, topics) + ".")
    rng.shuffle(sentences)
    return (" ".join(sentences),)


# --- paraphrase and similarity -------------------------------------------------------------------------------------


def paraphrase(rng: Random, split: str, label: int) -> Texts:
    """Two sentences that say the same (1) or differ in one word, in a "not" or in who did it to whom (0)."""
    event = draw_event(rng, split)
    return _two_wordings(event, event if label else changed_event(event, rng), rng)


def adversarial_paraphrase(rng: Random, split: str, label: int) -> Texts:
    """As :func:`paraphrase`, but the differing pairs hold the same words in other places."""
    event = draw_event(rng, split, adjectives=0.0)
    if rng.random() < 0.3:
        one, other = rng.sample(list(lexicon.ADJECTIVES), 2)
        event = replace(event, agent_adjective=one, patient_adjective=other)
        changed = replace(event, agent_adjective=other, patient_adjective=one)
    else:
        changed = event.swapped()
    return _two_wordings(event, event if label else changed, rng)


def question_paraphrase(rng: Random, split: str, label: int) -> Texts:
    """Two questions with the same answer (1) or not (0)."""
    while True:
        event, asked = draw_event(rng, split, adverbs=0.2, adjectives=0.15), rng.choice(ASKED)
        other, also_asked = event, asked
        if not label and rng.random() < 0.45:
            # "who helped the doctor?" against "whom did the doctor help?"
            other, also_asked = event.swapped(), {"agent": "patient", "patient": "agent"}.get(asked, asked)
        elif not label:
            other = replace_slot(event, rng.choice(_named_slots(asked)), rng)
        if question_split(event, asked) != split or question_split(other, also_asked) != split:
            continue
        voices = draw_voices(rng)
        first, second = (
            question(event, asked, rng, passive=voices[0]),
            question(other, also_asked, rng, passive=voices[1]),
        )
        if first != second:
            return first, second


def _named_slots(asked: str) -> tuple[str, ...]:
    """The replaceable parts that a question names."""
    return {"agent": ("verb", "patient"), "patient": ("verb", "agent")}.get(asked, ("verb", "agent", "patient"))


def changed_event(event: Event, rng: Random, slots: tuple[str, ...] = ("agent", "verb", "patient", "place")) -> Event:
    """An event that differs: roles swapped, or another word in one slot."""
    if rng.random() < 0.4:
        return event.swapped()
    if rng.random() < 0.3:
        return replace(event, negated=True)
    return replace_slot(event, rng.choice([slot for slot in slots if getattr(event, slot)]), rng)


def draw_voices(rng: Random) -> tuple[bool, bool]:
    """The voices of a pair: mostly the same, so that the order of the words says something, but never everything.

    Were they independent, who did it would be an exclusive-or of order and voice, which is learned very late.
    """
    passive = rng.random() < 0.5
    return passive, passive if rng.random() < 0.9 else not passive


def _two_wordings(one: Event, other: Event, rng: Random) -> Texts:
    """Two different sentences for two events (or for one)."""
    while True:
        voices = draw_voices(rng)
        texts = statement(one, rng, passive=voices[0]), statement(other, rng, passive=voices[1])
        if texts[0] != texts[1]:
            return texts


def similarity(rng: Random, split: str, label: int) -> Texts:
    """Two full events that agree in ``label`` of their five parts."""
    slots = ["agent", "verb", "patient", "place", "time"]
    event = draw_event(rng, split, adverbs=1.0, adjectives=0.0)
    other = event
    for slot in rng.sample(slots, len(slots) - label):
        other = replace_slot(other, slot, rng)
    if {other.agent, other.patient} & {event.agent, event.patient} and (
        other.agent == event.patient or other.patient == event.agent
    ):
        return similarity(rng, split, label)  # a participant in the other role is neither shared nor new
    return _two_wordings(event, other, rng)


# --- inference -----------------------------------------------------------------------------------------------------


def inference(rng: Random, split: str, label: int, *, generic: bool = False) -> Texts:
    """A premise and a hypothesis that follows (0), stays open (1) or cannot be (2)."""
    build = rng.choice((_by_role, _by_role, _by_place, _by_adjective))
    premise, hypothesis = build(draw_event(rng, split), label, rng)
    first, second = (replace(event, generic=generic) for event in (premise, hypothesis))
    voices = draw_voices(rng)
    return statement(first, rng, passive=voices[0]), statement(second, rng, passive=voices[1])


_RUMOURS = ("they say that", "i heard that", "well i know that", "it seems that")


def reported_inference(rng: Random, split: str, label: int) -> Texts:
    """Inference from hearsay, the second genre."""
    premise, hypothesis = inference(rng, split, label)
    return f"{rng.choice(_RUMOURS)} {premise}", hypothesis


def _without_details(event: Event, rng: Random) -> Event:
    """Leave out optional parts; what remains still follows from a positive event."""
    slots = ("agent_adjective", "patient_adjective", "place", "time")
    return event.with_words({slot: "" for slot in slots if rng.random() < 0.5})


def _other_event(event: Event, rng: Random) -> Event:
    """An event about which the given one says nothing."""
    return event.swapped() if rng.random() < 0.5 else replace_slot(event, rng.choice(("agent", "verb", "patient")), rng)


def _by_role(event: Event, label: int, rng: Random) -> tuple[Event, Event]:
    """Who did it to whom, and whether: polarity tells entailment from contradiction, the roles tell neutral."""
    premise_negated, negated = rng.random() < 0.15, rng.random() < 0.2
    if label == ENTAILMENT:
        premise_negated = negated
    elif label == CONTRADICTION:
        premise_negated, negated = (True, False) if rng.random() < 0.2 else (False, True)
    hypothesis = event
    if not (premise_negated or negated):  # "did not help her in the park" says nothing about other places
        hypothesis = _without_details(event, rng)
    if label == NEUTRAL:
        hypothesis = _other_event(hypothesis, rng)
    return replace(event, negated=premise_negated), replace(hypothesis, negated=negated)


def _by_place(event: Event, label: int, rng: Random) -> tuple[Event, Event]:
    """The same event happens in one place only; an unsaid place stays open."""
    event = replace(event, place=rng.choice(list(lexicon.PLACES)))
    hypothesis = replace(_without_details(event, rng), place=event.place)
    if label == ENTAILMENT:
        return event, hypothesis
    if label == CONTRADICTION:
        return event, replace_slot(hypothesis, "place", rng)
    if rng.random() < 0.5:
        return replace(event, place=""), hypothesis
    if rng.random() < 0.5:
        hypothesis = replace_slot(hypothesis, "place", rng)
    return event, _other_event(hypothesis, rng)


def _by_adjective(event: Event, label: int, rng: Random) -> tuple[Event, Event]:
    """A participant is not old and young at once; what is said of one says nothing of the other."""
    adjective = rng.choice(list(lexicon.ADJECTIVES))
    slots = ["agent_adjective", "patient_adjective"]
    rng.shuffle(slots)
    described, other = slots
    bare = {described: "", other: ""}
    event = event.with_words(bare | {described: adjective})
    hypothesis = _without_details(event, rng).with_words(bare)
    if label == ENTAILMENT:
        return event, hypothesis.with_words({described: adjective})
    if label == CONTRADICTION:
        return event, hypothesis.with_words({described: lexicon.ANTONYM[adjective]})
    return event, hypothesis.with_words({other: rng.choice((adjective, lexicon.ANTONYM[adjective]))})


def question_answer(rng: Random, split: str, label: int) -> Texts:
    """A question and a sentence that answers it (0) or is about something else (1)."""
    while True:
        event, asked = draw_event(rng, split, adverbs=0.3, adjectives=0.15), rng.choice(ASKED[:3])
        if asked == "place":
            event = replace(event, place=rng.choice(list(lexicon.PLACES)))
        told = event if label == 0 else changed_event(event, rng, slots=_named_slots(asked))
        if question_split(event, asked) == split:
            voices = draw_voices(rng)
            return question(event, asked, rng, passive=voices[0]), statement(told, rng, passive=voices[1])
