"""The two suites of the world as labelled rows, in the shape of a hub data set.

``mini`` mirrors GLUE and ``mini2`` mirrors SET2; ``mini_mrpc`` belongs to both, as MRPC does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from random import Random

from compt_fast.mini import lexicon, skills
from compt_fast.mini.skills import Skill, Texts

Row = dict[str, str | int | float]


@dataclass(frozen=True)
class Task:
    """How one task's rows are made: label ``i`` draws from the example labels ``meanings[i]``."""

    skill: Skill
    labels: tuple[str, ...] = ()  # empty: the label is a number
    meanings: tuple[tuple[int, ...], ...] = ((0,), (1,))


_RUMOURS = ("they say that", "i heard that", "well i know that", "it seems that")


def _reported_inference(rng: Random, split: str, label: int) -> Texts:
    """Inference from hearsay, the second genre."""
    premise, hypothesis = skills.inference(rng, split, label)
    return f"{rng.choice(_RUMOURS)} {premise}", hypothesis


_NLI = ("entailment", "neutral", "contradiction")
_TWO_WAY = ("entailment", "not_entailment")
_POLARITY = ("negative", "positive")
_EQUIVALENCE = ("not_equivalent", "equivalent")
_EACH_OF_THREE = ((0,), (1,), (2,))

TASKS: dict[str, Task] = {
    "mini_cola": Task(skills.acceptability, ("unacceptable", "acceptable")),
    "mini_mnli": Task(skills.inference, _NLI, _EACH_OF_THREE),
    "mini_mrpc": Task(skills.paraphrase, _EQUIVALENCE),
    "mini_qnli": Task(skills.question_answer, _TWO_WAY),
    "mini_qqp": Task(skills.question_paraphrase, ("not_duplicate", "duplicate")),
    "mini_rte": Task(skills.inference, _TWO_WAY, ((0,), (1, 2))),
    "mini_sst2": Task(skills.sentiment, _POLARITY),
    "mini_stsb": Task(skills.similarity, (), tuple((i,) for i in range(6))),
    "mini_imdb": Task(skills.long_sentiment, _POLARITY),
    "mini_multinli": Task(_reported_inference, _NLI, _EACH_OF_THREE),
    "mini_paws": Task(skills.adversarial_paraphrase, _EQUIVALENCE),
    "mini_scitail": Task(partial(skills.inference, generic=True), ("entailment", "neutral")),
    "mini_yelp_polarity": Task(partial(skills.long_sentiment, topics=lexicon.VENUE_TOPICS), _POLARITY),
}
SUITES: dict[str, tuple[str, ...]] = {
    "mini": tuple(list(TASKS)[:8]),
    "mini2": ("mini_imdb", "mini_mrpc", "mini_multinli", "mini_paws", "mini_scitail", "mini_yelp_polarity"),
}


def draw(task: str, split: str, size: int, seed: int = 0) -> list[Row]:
    """Draw ``size`` class-balanced rows of a task's ``train`` or ``validation`` split.

    The same arguments give the same rows. No sentence occurs in both splits, whatever the sizes and seeds. A row
    holds ``sentence1``, for tasks of two sentences ``sentence2``, and ``label``: a class number, or a float from
    0 to 5 for ``mini_stsb``. Rows of one draw differ from each other.
    """
    if split not in ("train", "validation"):
        raise ValueError(f"split must be 'train' or 'validation', not {split!r}")
    spec = TASKS[task]
    rng = Random(f"{task} {split} {seed}")
    rows: list[Row] = []
    seen: set[Texts] = set()
    while len(rows) < size:
        label = len(rows) % len(spec.meanings)
        texts = spec.skill(rng, split, rng.choice(spec.meanings[label]))
        if texts in seen:
            continue
        seen.add(texts)
        row: Row = {f"sentence{i}": text for i, text in enumerate(texts, 1)}
        rows.append(row | {"label": label if spec.labels else float(label)})
    rng.shuffle(rows)
    return rows
