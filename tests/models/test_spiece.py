"""The models of sentencepiece that are made of tokenizers: its own library reads them and cuts alike."""

from __future__ import annotations

import pytest
import sentencepiece
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerBase

from compt_fast.models.spiece import sentencepiece_model
from tests.helpers.made_predictors import MINI, mini_rows
from tests.helpers.shared import real
from tests.helpers.tiny_t5 import tiny_tokenizer

TEXTS = (
    "the dog  sees a cat. ",
    "Zebra!?",
    "unequivocal words",
    "ÀÉ ﬁne – “quoted” ½ Ⅷ  é 你好 ☃",
    "x" * 300,
)


def check(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> None:
    """Both cut the texts alike, and read all ids back alike."""
    content = sentencepiece_model(tokenizer)
    assert content is not None
    pieces = sentencepiece.SentencePieceProcessor(model_proto=content)
    assert pieces.get_piece_size() == len(tokenizer)
    assert (pieces.unk_id(), pieces.eos_id(), pieces.pad_id()) == (2, 1, 0)
    for text in texts:
        assert pieces.encode(text) == tokenizer(text, add_special_tokens=False)["input_ids"], text
    ids = [i for i in range(len(tokenizer)) if i != tokenizer.unk_token_id]
    assert pieces.decode(ids).strip() == tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_the_embedded_tokenizer() -> None:
    rows = [text for row in mini_rows(10) for key, text in row.items() if key.startswith("sentence")]
    check(AutoTokenizer.from_pretrained(MINI), [*rows, *TEXTS])


def test_a_tiny_tokenizer() -> None:
    check(tiny_tokenizer(), list(TEXTS))


def test_the_published_tokenizer() -> None:
    folder = real("t5-tokenizer")
    check(AutoTokenizer.from_pretrained(folder) if folder else tiny_tokenizer(), list(TEXTS))


@pytest.mark.parametrize("change", ["normalizer", "pre_tokenizer"])
def test_what_is_not_t5s_has_none(change: str) -> None:
    assert sentencepiece_model(ByT5Tokenizer()) is None
    tokenizer = tiny_tokenizer()
    from tokenizers import normalizers, pre_tokenizers

    if change == "normalizer":
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    else:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert sentencepiece_model(tokenizer) is None
