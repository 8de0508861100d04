"""Texts and labels as the tokenizers of other trunks than T5 frame them: cut in pieces, they are what the whole is."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from compt_fast.tasks.table import TASKS
from compt_fast.tasks.text import check_writable, encode_label, read_input
from tests.helpers.tiny_t5 import tiny_tokenizer
from tests.helpers.tiny_trunks import byte_tokenizer

RTE = TASKS["rte"]
TEXTS = (" A cat sees the red house.\n", "It's in the city, by the river")
SAID = "rte: sentence1: A cat sees the red house. sentence2: It's in the city, by the river"


def prefixing_tokenizer() -> Any:
    """As Llama 2's: a space before every text, and one more where the text begins with one."""
    pieces = ["<s>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyzABCI.,:'12_"]
    pairs = [("▁", "c"), ("▁", "s"), ("▁", "▁")]
    words = pieces + ["".join(pair) for pair in pairs]
    made = Tokenizer(models.BPE({piece: k for k, piece in enumerate(words)}, pairs, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("make", [byte_tokenizer, prefixing_tokenizer, tiny_tokenizer])
def test_a_causal_models_label_continues_its_text(make: Any) -> None:
    """Text and label together are the tokens of `text label`, but for the end behind it."""
    tokenizer = make()
    tokenizer.padding_side = "left"
    read = read_input(RTE, TEXTS, tokenizer, prefix=True)
    ids = read.cut(10_000)
    assert len(ids) == read.length
    whole = [token for token in tokenizer(f"{SAID} not_entailment")["input_ids"] if token != tokenizer.eos_token_id]
    assert ids + encode_label("not_entailment", tokenizer) == [*whole, tokenizer.eos_token_id]
    bare = read_input(RTE, TEXTS, tokenizer, prefix=False).cut(10_000)
    assert bare == [t for t in tokenizer(SAID.removeprefix("rte: "))["input_ids"] if t != tokenizer.eos_token_id]
    check_writable(RTE, "natural", tokenizer)


@pytest.mark.parametrize("make", [byte_tokenizer, prefixing_tokenizer, tiny_tokenizer])
def test_an_encoder_decoder_reads_what_the_tokenizer_makes_of_the_text(make: Any) -> None:
    tokenizer = make()
    tokenizer.padding_side = "right"
    assert read_input(RTE, TEXTS, tokenizer, prefix=True).cut(10_000) == tokenizer(SAID)["input_ids"]
    word = tokenizer("entailment", add_special_tokens=False)["input_ids"]
    assert encode_label("entailment", tokenizer) == [*word, tokenizer.eos_token_id]


def test_cutting_keeps_what_frames_the_text() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.padding_side = "right"
    cut = read_input(RTE, TEXTS, tokenizer, prefix=True).cut(30)
    assert len(cut) == 30 and cut[0] == tokenizer.bos_token_id
    assert tokenizer.decode(cut[1:]).startswith("rte: sentence1: A")
