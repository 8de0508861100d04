"""Meanings and the sentences that express them.

An :class:`Event` says who does what to whom, where and when; labels are decided on events, never on their wording.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from compt_fast.mini import lexicon
from compt_fast.mini.lexicon import spell, split_of


@dataclass(frozen=True)
class Event:
    """One event; empty strings stand for what is not said."""

    agent: str
    verb: str
    patient: str
    agent_adjective: str = ""
    patient_adjective: str = ""
    place: str = ""
    time: str = ""
    negated: bool = False
    generic: bool = False  # "nurses help doctors" instead of "the nurse helped the doctor"

    @property
    def split(self) -> str:
        """The split this event and all its wordings belong to."""
        return split_of(self.agent, self.verb, self.patient)

    def with_words(self, words: Mapping[str, str]) -> Event:
        """The event with other words in the named slots; an empty word leaves the slot unsaid."""
        changes: dict[str, Any] = dict(words)
        return replace(self, **changes)

    def swapped(self) -> Event:
        """The event with the two participants in each other's place."""
        return replace(
            self,
            agent=self.patient,
            patient=self.agent,
            agent_adjective=self.patient_adjective,
            patient_adjective=self.agent_adjective,
        )


def draw_event(rng: Random, split: str, *, adverbs: float = 0.3, adjectives: float = 0.25) -> Event:
    """Draw a positive event of ``split``; the two numbers are the chances of each optional part."""
    while True:
        agent, patient = rng.sample(list(lexicon.ANIMATE), 2)
        event = Event(agent, rng.choice(list(lexicon.SOCIAL_VERBS)), patient)
        if event.split == split:
            break
    return replace(
        event,
        agent_adjective=rng.choice(list(lexicon.ADJECTIVES)) if rng.random() < adjectives else "",
        patient_adjective=rng.choice(list(lexicon.ADJECTIVES)) if rng.random() < adjectives else "",
        place=rng.choice(list(lexicon.PLACES)) if rng.random() < adverbs else "",
        time=rng.choice(lexicon.TIMES) if rng.random() < adverbs else "",
    )


def replace_slot(event: Event, slot: str, rng: Random) -> Event:
    """Put another word in ``slot`` (agent, verb, patient, place or time), staying in the event's split."""
    choices = {
        "agent": list(lexicon.ANIMATE),
        "patient": list(lexicon.ANIMATE),
        "verb": list(lexicon.SOCIAL_VERBS),
        "place": list(lexicon.PLACES),
        "time": list(lexicon.TIMES),
    }[slot]
    while True:
        word = rng.choice(choices)
        other = event.with_words({slot: word})
        if word not in (event.agent, event.patient, getattr(event, slot)) and other.split == event.split:
            return other


def noun_phrase(noun: str, adjective: str, rng: Random, *, generic: bool = False) -> str:
    """A participant in words, with freely drawn synonyms."""
    words = [] if generic else ["the"]
    if adjective:
        words.append(spell(adjective, lexicon.ADJECTIVES, rng))
    name = spell(noun, lexicon.NOUNS, rng)
    words.append(lexicon.plural(name) if generic else name)
    return " ".join(words)


def adverbials(event: Event) -> list[str]:
    """Place and time in words."""
    return ([f"in the {event.place}"] if event.place else []) + ([event.time] if event.time else [])


def statement(event: Event, rng: Random, *, passive: bool | None = None, fronted: bool | None = None) -> str:
    """Say the event in one sentence; the form is drawn where it is not given."""
    passive = rng.random() < 0.5 if passive is None else passive
    agent = noun_phrase(event.agent, event.agent_adjective, rng, generic=event.generic)
    patient = noun_phrase(event.patient, event.patient_adjective, rng, generic=event.generic)
    verb = spell(event.verb, lexicon.VERBS, rng)
    if passive:
        auxiliary = ("are" if event.generic else "was") + (" not" if event.negated else "")
        core = f"{patient} {auxiliary} {lexicon.past(verb)} by {agent}"
    elif event.negated:
        core = f"{agent} {'do' if event.generic else 'did'} not {verb} {patient}"
    else:
        core = f"{agent} {verb if event.generic else lexicon.past(verb)} {patient}"
    parts = adverbials(event)
    rng.shuffle(parts)
    fronted = rng.random() < 0.3 if fronted is None else fronted
    if parts and fronted:
        core = f"{parts.pop(0)} {core}"
    return " ".join([core, *parts]) + "."


ASKED = ("agent", "patient", "place", "polar")


def question(event: Event, asked: str, rng: Random, *, passive: bool | None = None) -> str:
    """Ask for one part of the event (``polar`` asks whether it happened)."""
    passive = rng.random() < 0.5 if passive is None else passive
    agent = noun_phrase(event.agent, event.agent_adjective, rng)
    patient = noun_phrase(event.patient, event.patient_adjective, rng)
    verb = spell(event.verb, lexicon.VERBS, rng)
    done = lexicon.past(verb)
    core = {
        ("agent", False): f"who {done} {patient}",
        ("agent", True): f"by whom was {patient} {done}",
        ("patient", False): f"whom did {agent} {verb}",
        ("patient", True): f"who was {done} by {agent}",
        ("place", False): f"where did {agent} {verb} {patient}",
        ("place", True): f"where was {patient} {done} by {agent}",
        ("polar", False): f"did {agent} {verb} {patient}",
        ("polar", True): f"was {patient} {done} by {agent}",
    }[asked, passive]
    parts = adverbials(replace(event, place="") if asked == "place" else event)
    return " ".join([core, *parts]) + "?"


def question_split(event: Event, asked: str) -> str:
    """The split of a question: what it names decides, so that no two splits ask the same."""
    named = {"agent": ("who", event.patient), "patient": ("whom", event.agent)}.get(asked)
    return split_of(event.verb, *named) if named else event.split


def opinion(rng: Random, split: str, positive: bool, topics: tuple[str, ...]) -> str:
    """One clause, without its full stop, that praises or blames a topic."""
    negated = rng.random() < 0.12
    cheerful = positive != negated
    judging = rng.random() < 0.7
    while True:
        topic = rng.choice(topics)
        if judging:
            word = rng.choice(lexicon.GOOD if cheerful else lexicon.BAD)
        else:
            word = rng.choice(lexicon.LIKING if cheerful else lexicon.DISLIKING)
        if split_of(topic, word) == split:
            break
    if judging:
        adverb = rng.choice(("", "", "very ", "really "))
        return f"the {topic} was {'not ' if negated else ''}{adverb}{word}"
    return f"i {'did not ' if negated else ''}{word} the {topic}"


def contrast(rng: Random, split: str, positive: bool, topics: tuple[str, ...]) -> str:
    """Two clauses of opposite opinion, without the full stop; the later one decides."""
    first, last = (opinion(rng, split, side, topics) for side in (not positive, positive))
    return f"{first} but {last}" if rng.random() < 0.5 else f"although {first} {last}"
