"""The pre-training stream: batch ``k`` of a seed is always the same, so that a run can stop and go on anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from compt_fast.mini import skills, styles
from compt_fast.mini.grammar import ASKED, draw_event, question, question_split, statement
from compt_fast.mini.lexicon import ANIMATE, FILM_TOPICS, VENUE_TOPICS

IGNORED = -100
NAMES = frozenset(spelling for spellings in ANIMATE.values() for spelling in spellings)
# Shares of the example kinds; the rest are skills.
PAIR_DENOISING, SPAN_DENOISING, TOYS = 0.18, 0.04, 0.05

Part = dict[str, Tensor]


class Encoder:
    """Text to ids, word by word with a memory: words are few, and the pieces of one never depend on another."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._words: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """The ids of ``text`` with ``</s>`` at the end, as the tokenizer itself gives them."""
        ids = [i for word in text.split() for i in self._word(word)]
        return [*ids, self.tokenizer.eos_token_id]

    def _word(self, word: str) -> list[int]:
        if word not in self._words:
            self._words[word] = self.tokenizer(word, add_special_tokens=False).input_ids
        return self._words[word]


def with_gaps(words: Sequence[str], places: Sequence[int]) -> tuple[str, str]:
    """Put sentinels for the words at ``places``; returns the gapped text and what stood in the gaps."""
    gapped, missing = list(words), []
    for i, place in enumerate(sorted(places)):
        missing += [f"<extra_id_{i}>", words[place]]
        gapped[place] = f"<extra_id_{i}>"
    return " ".join(gapped), " ".join(missing)


def pair_example(split: str, rng: Random) -> tuple[str, str]:
    """Two wordings of one meaning, the second with gaps that the first fills."""
    event = draw_event(rng, split)
    if rng.random() < 0.3:
        asked = rng.choice(ASKED)
        while question_split(event, asked) != split:
            event = draw_event(rng, split)
        other = question(event, asked, rng) if rng.random() < 0.5 else statement(event, rng)
        texts = [question(event, asked, rng), other]
        rng.shuffle(texts)
    else:
        texts = [statement(event, rng), statement(event, rng)]
    words = texts[1].split()
    places = [i for i, word in enumerate(words) if word.strip(".?") in NAMES]
    # With one participant left standing the other is known without its role; so mostly all of them go.
    if not places or rng.random() < 0.3:
        places = rng.sample(range(len(words)), rng.choice((1, 2, 2, 3)))
    gapped, missing = with_gaps(words, places)
    return styles.layout((texts[0], gapped), rng), missing


def span_example(split: str, rng: Random) -> tuple[str, str]:
    """One sentence or review with gaps that grammar and sense must fill."""
    kind = rng.random()
    if kind < 0.4:
        text = skills.acceptability(rng, split, 1)[0]
    elif kind < 0.6:
        text = statement(draw_event(rng, split), rng)
    else:
        text = skills.sentiment(rng, split, rng.randrange(2), rng.choice((FILM_TOPICS, VENUE_TOPICS)))[0]
    words = text.split()
    gapped, missing = with_gaps(words, rng.sample(range(len(words)), rng.choice((1, 2))))
    return styles.layout((gapped,), rng), missing


def draw_example(rng: Random, free: float, split: str = "pretrain") -> tuple[str, str, str]:
    """One example of the mixture: its kind, input and label text."""
    kind = rng.random()
    if kind < PAIR_DENOISING:
        return "pairs", *pair_example(split, rng)
    if kind < PAIR_DENOISING + SPAN_DENOISING:
        return "spans", *span_example(split, rng)
    if kind < PAIR_DENOISING + SPAN_DENOISING + TOYS:
        return "toys", *styles.toy_example(split, rng)
    names = list(styles.STYLES)
    name = rng.choices(names, [style.share for style in styles.STYLES.values()])[0]
    return name, *styles.skill_example(name, split, rng, free)


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Ids of different lengths as one tensor."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def collate(examples: Sequence[tuple[str, str]], encoder: Encoder) -> Part:
    """Input and label texts as a padded batch."""
    inputs = [encoder(text) for text, _ in examples]
    return {
        "input_ids": pad(inputs, 0),
        "attention_mask": pad([[1] * len(ids) for ids in inputs], 0),
        "labels": pad([encoder(label) for _, label in examples], IGNORED),
    }


@dataclass
class Stream(Dataset[list[Part]]):
    """Batches by number; each is one mixed draw cut into parts by length, so that little of it is padding."""

    tokenizer: PreTrainedTokenizerBase
    batch_size: int
    steps: int
    seed: int = 0
    parts: int = 2
    free_from: float = 0.65  # share of the training after which label words are sometimes free
    free: float = 0.25

    def __post_init__(self) -> None:
        self.encoder = Encoder(self.tokenizer)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> list[Part]:
        rng = Random(f"pretrain {self.seed} {step}")
        free = self.free if step >= self.free_from * self.steps else 0.0
        examples = [draw_example(rng, free)[1:] for _ in range(self.batch_size)]
        examples.sort(key=lambda example: example[0].count(" "))
        size = -(-len(examples) // self.parts)
        return [collate(examples[i : i + size], self.encoder) for i in range(0, len(examples), size)]
