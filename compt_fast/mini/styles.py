"""How the trunk meets its skills in pre-training: instructions, label words and layouts of their own.

None of these is a suite's wording. An instruction is a cue for the skill and the label words to answer with, the
affirmative one first. Cues, label words and layouts vary independently of each other, so that the trunk learns to
take them apart and a soft prompt can put them together anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from compt_fast.mini import lexicon, skills
from compt_fast.mini.skills import Skill, Texts

SUITE_LABELS = tuple(
    "unacceptable acceptable negative positive not_equivalent equivalent not_duplicate duplicate entailment "
    "not_entailment neutral contradiction low medium high".split()
)
DECIMALS = tuple(f"{i / 5:.1f}" for i in range(26))
DIGITS = tuple("012345")
CODES = tuple(f"{letter}{digit}" for letter in "ABCDEFGHIJKLMN" for digit in "012")
NUMBER_WORDS = tuple("zero one two three four five".split())


def _sets(text: str) -> tuple[tuple[str, ...], ...]:
    """Read ``"yes/no true/false"`` as two sets of label words."""
    return tuple(tuple(group.split("/")) for group in text.split())


PAIRS = _sets("yes/no true/false right/wrong plus/minus agree/differ match/clash left/east red/blue alpha/beta")
TRIPLES = _sets("yes/unclear/no true/unknown/false plus/zero/minus holds/open/refuted red/green/blue alpha/gamma/beta")
SCALES = (
    NUMBER_WORDS,
    tuple("none slight some half most all".split()),
    tuple("abcdef"),
    ("0.4", "1.4", "2.2", "3.2", "4.2", "4.8"),
    ("10", "20", "30", "40", "50", "60"),
)
_STYLE_WORDS = tuple(dict.fromkeys(word for group in (*PAIRS, *TRIPLES, *SCALES) for word in group))
LABEL_WORDS = tuple(dict.fromkeys([*SUITE_LABELS, *DECIMALS, *DIGITS, *CODES, *_STYLE_WORDS]))
# Words that may be drawn as labels at random; single letters stay out, they are too like the words of the world.
FREE_LABELS = tuple(word for word in LABEL_WORDS if word not in DECIMALS and len(word) > 1)


@dataclass(frozen=True)
class Style:
    """A skill in pre-training: its cues, its classes (affirmative first) and its share of the skill examples."""

    skill: Skill
    cues: tuple[str, ...]
    classes: tuple[tuple[int, ...], ...]
    share: float
    foreign: tuple[str, ...] = ()  # the suites' label words for this skill: never used with it here


def _any_sentiment(rng: Random, split: str, label: int) -> Texts:
    topics = rng.choice((lexicon.FILM_TOPICS, lexicon.VENUE_TOPICS))
    skill = skills.sentiment if rng.random() < 0.65 else skills.long_sentiment
    return skill(rng, split, label, topics)


def _any_paraphrase(rng: Random, split: str, label: int) -> Texts:
    skill = skills.paraphrase if rng.random() < 0.75 else skills.adversarial_paraphrase
    return skill(rng, split, label)


def _any_inference(rng: Random, split: str, label: int) -> Texts:
    return skills.inference(rng, split, label, generic=rng.random() < 0.15)


_YES_FIRST = ((1,), (0,))
_ENTAILMENT_WORDS = ("entailment", "not_entailment", "neutral", "contradiction")
STYLES: dict[str, Style] = {
    "acceptability": Style(
        skills.acceptability,
        ("grammar", "well formed", "proper", "wording"),
        _YES_FIRST,
        1.5,
        ("acceptable", "unacceptable"),
    ),
    "sentiment": Style(
        _any_sentiment,
        ("mood", "pleased", "opinion", "verdict"),
        _YES_FIRST,
        1.0,
        ("positive", "negative"),
    ),
    "paraphrase": Style(
        _any_paraphrase,
        ("same meaning", "restated", "one message", "compare"),
        _YES_FIRST,
        1.5,
        ("equivalent", "not_equivalent"),
    ),
    "question_paraphrase": Style(
        skills.question_paraphrase,
        ("same question", "one ask", "compare asked", "twins"),
        _YES_FIRST,
        0.7,
        ("duplicate", "not_duplicate"),
    ),
    "inference": Style(
        _any_inference,
        ("claim", "so", "judge claim", "supported"),
        ((0,), (1,), (2,)),
        2.0,
        _ENTAILMENT_WORDS,
    ),
    "two_way_inference": Style(
        _any_inference,
        ("certain", "must it", "proved", "sure"),
        ((0,), (1, 2)),
        0.5,
        _ENTAILMENT_WORDS,
    ),
    "question_answer": Style(
        skills.question_answer,
        ("answered", "reply", "solves", "reply there"),
        ((0,), (1,)),
        0.7,
        _ENTAILMENT_WORDS,
    ),
    "similarity": Style(
        skills.similarity,
        ("overlap", "how close", "shared", "grade"),
        tuple((i,) for i in range(6)),
        0.4,
    ),
}

SINGLE_LAYOUTS = ("sentence1: {0}", "sentence1: {0}", "text: {0}", "sentence: {0}")
PAIR_LAYOUTS = (
    "sentence1: {0} sentence2: {1}",
    "sentence1: {0} sentence2: {1}",
    "sentence1: {0} sentence2: {1}",
    "text: {0} other: {1}",
    "basis: {0} claim: {1}",
    "claim: {1} basis: {0}",
)
TAGS = tuple("cola mnli mrpc qnli qqp rte sst2 stsb imdb multinli paws scitail yelp_polarity task item data".split())
FIELD_WORDS = tuple(
    "sentence1: sentence2: premise: hypothesis: question: sentence: text: other: basis: claim: label: answer:".split()
)
TOY_CUES = tuple("say always first last odd decimal count digit".split())
INSTRUCTION_WORDS = tuple(
    dict.fromkeys(
        [*TAGS, *TOY_CUES, *(word for style in STYLES.values() for cue in style.cues for word in cue.split())]
    )
)


def layout(texts: Texts, rng: Random, tagged: float = 0.4) -> str:
    """Put the texts into named fields; the neutral layout may carry a tag that means nothing."""
    pattern = rng.choice(SINGLE_LAYOUTS if len(texts) == 1 else PAIR_LAYOUTS)
    text = pattern.format(*texts)
    return f"{rng.choice(TAGS)}: {text}" if pattern.startswith("sentence1") and rng.random() < tagged else text


def label_words(style: Style, rng: Random, free: float) -> tuple[str, ...]:
    """A memorised set of label words or, with chance ``free``, words drawn at random for this example alone.

    As long as nothing is free, only the first sets of each kind are in use: skills are found sooner with few words.
    """
    count = len(style.classes)
    if not free:
        return rng.choice({2: PAIRS[:3], 3: TRIPLES[:2]}.get(count, SCALES[:2]))
    if count > 3:
        return rng.choice(SCALES)
    if rng.random() < free:
        return tuple(rng.sample([word for word in FREE_LABELS if word not in style.foreign], count))
    return rng.choice(PAIRS if count == 2 else TRIPLES)


def instruction(style: Style, words: tuple[str, ...], rng: Random) -> str:
    """A cue and the label words; of a scale only its ends."""
    named = words if len(words) <= 3 else (words[0], words[-1])
    return " ".join([rng.choice(style.cues), *named])


def skill_example(name: str, split: str, rng: Random, free: float = 0.0) -> tuple[str, str]:
    """One instructed example of a skill: input and label text."""
    style = STYLES[name]
    label = rng.randrange(len(style.classes))
    texts = style.skill(rng, split, rng.choice(style.classes[label]))
    words = label_words(style, rng, free)
    return f"{instruction(style, words, rng)} : {layout(texts, rng)}", words[label]


def toy_example(split: str, rng: Random) -> tuple[str, str]:
    """An example in which the instruction alone decides the answer, so that any label word can be said."""
    cue = rng.choice(TOY_CUES)
    words = rng.sample(LABEL_WORDS, 3)
    number = rng.randrange(6)
    if cue == "say":
        return f"say {words[0]}", words[0]
    if cue == "always":
        texts = rng.choice((skills.paraphrase, skills.acceptability))(rng, split, rng.randrange(2))
        return f"always {words[0]} : {layout(texts, rng)}", words[0]
    if cue in ("first", "last"):
        return f"{cue} : {' '.join(words)}", words[0 if cue == "first" else -1]
    if cue == "odd":
        place = rng.randrange(3)
        return "odd : " + " ".join(words[1] if i == place else words[0] for i in range(3)), words[1]
    if cue == "count":
        return f"count : {' '.join([rng.choice(list(lexicon.NOUNS))] * max(number, 1))}", DECIMALS[5 * max(number, 1)]
    shown = rng.choice((NUMBER_WORDS, DIGITS))[number]
    return f"{cue} : {shown}", DECIMALS[5 * number] if cue == "decimal" else DIGITS[number]
