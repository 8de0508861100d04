"""The vocabulary: T5's conventions, suffixes apart, nothing unknown."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from compt_fast.mini import lexicon, styles
from compt_fast.mini.stream import Encoder
from compt_fast.tasks.table import MAKERS
from tools import vocabulary
from tools.probe import example


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return vocabulary.build()


def test_specials_and_sentinels_stand_where_t5_has_them(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.convert_tokens_to_ids(["<pad>", "</s>", "<unk>"]) == [0, 1, 2]
    last = len(tokenizer) - 1
    assert tokenizer.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_99>"]) == [last, last - 99]
    assert tokenizer("dog").input_ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("task", MAKERS)
def test_rows_survive_the_round_trip(task: str, tokenizer: PreTrainedTokenizerBase) -> None:
    encode = Encoder(tokenizer)
    for row in MAKERS[task].draw(task, "validation", 60):
        for text in example(task, row):
            ids = tokenizer(text).input_ids
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids, skip_special_tokens=True) == text
            assert encode(text) == ids


def test_suffixes_are_their_own_pieces(tokenizer: PreTrainedTokenizerBase) -> None:
    for word, (stem, suffix) in lexicon.suffixed_words().items():
        assert tokenizer.tokenize(word) == [f"▁{stem}", suffix]


def test_every_label_is_one_piece(tokenizer: PreTrainedTokenizerBase) -> None:
    for word in styles.LABEL_WORDS:
        assert tokenizer.tokenize(word) == [f"▁{word}"]


def test_no_letter_is_unknown(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer("the quick brown fox jumps over zebras, Xylophones & 1984!").input_ids
    assert ids.count(tokenizer.unk_token_id) <= 1  # only the ampersand
