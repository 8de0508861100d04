"""The words of the world and the three-way split of everything that can be said with them.

A word stands for a concept: the first spelling names the concept, the others are synonyms. All nouns and verbs
are regular, so that a suffix is always a piece of its own (``dog`` + ``s``, ``help`` + ``ed``).
"""

from __future__ import annotations

from random import Random

Spellings = dict[str, tuple[str, ...]]


def _concepts(text: str) -> Spellings:
    """Read ``"doctor/physician nurse"`` as two concepts, the first with two spellings."""
    groups = [tuple(group.split("/")) for group in text.split()]
    return {group[0]: group for group in groups}


ANIMATE = _concepts(
    "doctor/physician teacher nurse farmer lawyer/attorney singer baker pilot driver painter actor/performer guard "
    "cook/chef clerk king dog/hound cat horse rabbit goat pig/hog duck monkey bird"
)
THINGS = _concepts("table chair book letter lamp basket rope coat cup drum coin clock")
# Verbs between two animates, and verbs of an animate and a thing.
SOCIAL_VERBS = _concepts(
    "help/assist follow visit thank greet/welcome warn/alert attack insult/offend kick pull protect/defend fear reward "
    "join"
)
HANDLING_VERBS = _concepts("lift clean paint open mend/repair collect/gather")
ADJECTIVES = _concepts(
    "old young tall short rich/wealthy poor happy/cheerful sad strong weak calm angry/furious loud quiet "
    "clever/smart foolish"
)
_opposites = list(zip(list(ADJECTIVES)[::2], list(ADJECTIVES)[1::2], strict=True))
ANTONYM = dict(_opposites) | {second: first for first, second in _opposites}
PLACES = _concepts("park kitchen market garden school library station harbor forest castle")
TIMES = ("yesterday", "at noon", "at night", "at dawn", "on monday", "on friday", "in spring", "in winter")

FILM_TOPICS = ("movie", "story", "plot", "cast", "music", "ending", "script", "scene")
VENUE_TOPICS = ("food", "staff", "service", "room", "menu", "coffee", "pizza", "waiter")
GOOD = ("good", "great", "lovely", "superb", "charming", "fresh", "pleasant", "bright", "warm", "perfect")
BAD = ("bad", "awful", "terrible", "boring", "ugly", "stale", "nasty", "horrible", "dreadful", "clumsy")
LIKING = ("love", "enjoy", "like", "praise")
DISLIKING = ("hate", "dislike", "regret", "blame")

NOUNS = ANIMATE | THINGS
VERBS = SOCIAL_VERBS | HANDLING_VERBS

SPLITS = ("pretrain", "train", "validation")


def spell(concept: str, spellings: Spellings, rng: Random) -> str:
    """Draw one of a concept's spellings."""
    return rng.choice(spellings[concept])


def plural(noun: str) -> str:
    """The plural of a (regular) noun."""
    return noun + "s"


def past(verb: str) -> str:
    """The past tense and participle of a (regular) verb."""
    return verb + ("d" if verb.endswith("e") else "ed")


# Numbers of the words in a fixed order: contiguous within a word class, so that every class of ten or more words has
# words of every remainder by ten.
_INDEX = {
    word: i
    for i, word in enumerate(
        [*ANIMATE, *THINGS, *SOCIAL_VERBS, *HANDLING_VERBS, *FILM_TOPICS, *VENUE_TOPICS]
        + [*GOOD, *BAD, *LIKING, *DISLIKING, "who", "whom"]
    )
}


def split_of(*key: str) -> str:
    """The split that owns everything said about the words of ``key``, in whatever order.

    A sentence and its role-swapped twin always stand on the same side. Six tenths of all keys belong to
    pre-training, two tenths each to the suites' training and validation rows; for any other words of a key there
    is a verb and a participant that completes it to any split.
    """
    bucket = sum(_INDEX[word] for word in key) % 10
    return "pretrain" if bucket < 6 else "train" if bucket < 8 else "validation"


def suffixed_words() -> dict[str, tuple[str, str]]:
    """Every inflected word of the world with its stem and suffix."""
    words = {plural(n): (n, "s") for group in NOUNS.values() for n in group}
    for verb in (v for group in VERBS.values() for v in group):
        words[verb + "s"] = (verb, "s")
        words[past(verb)] = (verb, past(verb)[len(verb) :])
    return words
