"""The vocabulary: a sentencepiece unigram model of the world's text with T5's specials and sentinels."""

from __future__ import annotations

import io
import string
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import sentencepiece
from transformers import PreTrainedTokenizerBase, T5Tokenizer

from compt_fast.mini import lexicon
from compt_fast.mini.styles import FIELD_WORDS, INSTRUCTION_WORDS, LABEL_WORDS
from compt_fast.tasks.table import MAKERS, TASKS

SENTINELS = 100
_DELIMITER = "|"  # stands where the trainer may not build a piece across: between stem and suffix
# mrpc2 is no task, and a word of the shipped vocabulary all the same.
_TASK_NAMES = (*(name for name, task in TASKS.items() if task.origin == "hub"), "mrpc2")


def whole_words() -> list[str]:
    """Words that must be one piece each: labels, task names, fields, instructions and the uninflected world."""
    uninflected = [word for word in world_words() if _DELIMITER not in word]
    return list(dict.fromkeys([*LABEL_WORDS, *_TASK_NAMES, *FIELD_WORDS, *INSTRUCTION_WORDS, ":", *uninflected]))


def world_words() -> list[str]:
    """Every word of the world, inflected ones with the delimiter before their suffix."""
    split = {word: _DELIMITER.join(parts) for word, parts in lexicon.suffixed_words().items()}
    words = {word for text in _sample_texts() for word in _words(text)}
    words |= {spelling for group in (lexicon.NOUNS | lexicon.VERBS | lexicon.ADJECTIVES).values() for spelling in group}
    return sorted(split.get(word, word) for word in words | set(split))


def _sample_texts() -> Iterator[str]:
    """Rows of every task and every word list that rows alone might miss."""
    for task, maker in MAKERS.items():
        for row in maker.draw(task, "train", 400):
            yield from (str(row[name]) for name in ("sentence1", "sentence2") if name in row)
    yield " ".join([*lexicon.FILM_TOPICS, *lexicon.VENUE_TOPICS, *lexicon.GOOD, *lexicon.BAD])
    yield " ".join([*lexicon.LIKING, *lexicon.DISLIKING, *lexicon.PLACES, *lexicon.TIMES])


def _words(text: str) -> list[str]:
    return text.replace(".", "").replace("?", "").split()


def train(words: Iterable[str]) -> list[tuple[str, float]]:
    """Train the unigram model; returns its pieces with their scores, T5's specials first."""
    model = io.BytesIO()
    characters = string.ascii_letters + string.digits + ".,?!:;'_-/()"
    rng = Random(0)
    lines = [" ".join(rng.sample(list(words), 8)) for _ in range(4000)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="unigram",
        vocab_size=2000,
        hard_vocab_limit=False,
        pretokenization_delimiter=_DELIMITER,
        required_chars=characters,
        user_defined_symbols=[f"▁{word}" for word in whole_words()],
        split_by_unicode_script=False,
        split_by_number=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(len(processor))]
    if "▁" not in dict(pieces):  # pruned where every word is known; unknown words are spelled with it
        pieces.append(("▁", min(score for _, score in pieces)))
    return pieces


def build() -> PreTrainedTokenizerBase:
    """Train the vocabulary and wrap it as a T5 tokenizer with its sentinels at the end."""
    pieces = train(world_words())
    pieces += [(f"<extra_id_{i}>", 0.0) for i in reversed(range(SENTINELS))]
    specials = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return T5Tokenizer(vocab=pieces, extra_ids=SENTINELS, model_max_length=512, **specials)


def save(folder: Path) -> PreTrainedTokenizerBase:
    """Build the tokenizer and save it for ``AutoTokenizer.from_pretrained(folder)``."""
    tokenizer = build()
    tokenizer.save_pretrained(folder)
    return tokenizer
