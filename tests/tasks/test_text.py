from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, ByT5Tokenizer

from compt_fast.tasks.loaders import load_task
from compt_fast.tasks.table import TASKS, Task
from compt_fast.tasks.text import encode_label, input_text, label_text, label_texts, read_input, unknown_words
from compt_fast.utils.errors import InputError
from tests.helpers.hub_rows import write_hub
from tests.helpers.shared import real
from tests.helpers.tiny_t5 import tiny_tokenizer

RTE, COLA, STSB, MULTINLI = (TASKS[name] for name in ("rte", "cola", "stsb", "multinli"))
BYTES = ByT5Tokenizer()
WORDS = tiny_tokenizer()
LONG = 100_000


@pytest.fixture(scope="module")
def tokenizers() -> list[Any]:
    """Words, bytes, and T5's own where it is."""
    genuine = real("t5-tokenizer")
    return [WORDS, BYTES, *([AutoTokenizer.from_pretrained(genuine)] if genuine else [])]


def whole(text: str, tokenizer: Any) -> list[int]:
    """The tokens of a text as the tokenizer itself makes them, its end token included."""
    return tokenizer(text, verbose=False)["input_ids"]


def encode_input(task: Task, texts: Sequence[str], tokenizer: Any, *, prefix: bool, max_length: int) -> list[int]:
    """What the trunk reads of a row."""
    return read_input(task, texts, tokenizer, prefix=prefix).cut(max_length)


@pytest.mark.parametrize("prefix", [True, False])
def test_the_whole_text_and_its_length(prefix: bool, tokenizers: list[Any]) -> None:
    texts = (" A cat.\n", "A  dog.")
    said = input_text(RTE, texts, prefix=prefix)
    assert said == ("rte: " if prefix else "") + "sentence1: A cat. sentence2: A  dog."
    for tokenizer in tokenizers:
        read = read_input(RTE, texts, tokenizer, prefix=prefix)
        assert read.length == len(whole(said, tokenizer)) and read.cut(LONG) == whole(said, tokenizer)


def test_words_with_unknown_characters() -> None:
    assert unknown_words(("man 犬 cat", "(猫) dog"), WORDS) == ["犬", "(猫)"]
    assert unknown_words(("man 犬 cat",), BYTES) == [], "bytes write everything"


def test_the_texts_form() -> None:
    ids = encode_input(RTE, ("A cat.", "A dog."), BYTES, prefix=True, max_length=LONG)
    assert ids == whole("rte: sentence1: A cat. sentence2: A dog.", BYTES)
    ids = encode_input(RTE, ("A cat.", "A dog."), BYTES, prefix=False, max_length=LONG)
    assert ids == whole("sentence1: A cat. sentence2: A dog.", BYTES)
    ids = encode_input(COLA, (" A cat.\n",), BYTES, prefix=True, max_length=LONG)
    assert ids == whole("cola: sentence1: A cat.", BYTES)
    ids = encode_input(MULTINLI, ("A.", "B."), BYTES, prefix=True, max_length=LONG)
    assert ids == whole("multinli: premise: A. hypothesis: B.", BYTES)
    ids = encode_input(TASKS["mini_rte"], ("A.", "B."), BYTES, prefix=True, max_length=LONG)
    assert ids == whole("rte: sentence1: A. sentence2: B.", BYTES)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.origin == "hub"])
def test_pieces_make_the_same_tokens_as_the_whole(
    name: str, tokenizers: list[Any], hub_root: Path | None, tmp_path: Path
) -> None:
    task = TASKS[name]
    there = hub_root is not None and (hub_root / task.dataset).is_dir()
    data = load_task(task, data_root=hub_root if there else write_hub(tmp_path))
    for k in range(0, len(data.evaluation), 7):
        texts = data.evaluation[k].texts
        fields = [f"{field}: {text}" for (_, field), text in zip(task.fields, texts, strict=True)]
        for tokenizer in tokenizers:
            expected = whole(f"{name}: {' '.join(fields)}", tokenizer)
            assert encode_input(task, texts, tokenizer, prefix=True, max_length=LONG) == expected


@settings(deadline=None)
@given(st.text(st.characters(codec="ascii"), min_size=1), st.booleans())
def test_pieces_make_the_same_tokens_for_any_ascii(text: str, prefix: bool) -> None:
    start = "cola: " if prefix else ""
    for tokenizer in (WORDS, BYTES):
        ids = encode_input(COLA, (text,), tokenizer, prefix=prefix, max_length=LONG)
        assert ids == whole(f"{start}sentence1: {text.strip()}", tokenizer)


@settings(deadline=None)
@given(lengths=st.tuples(st.integers(1, 60), st.integers(1, 60)), max_length=st.integers(37, 160))
def test_the_longest_text_is_cut_first(lengths: tuple[int, int], max_length: int) -> None:
    """Against cutting one token after another, always from the longest (here, a letter is one)."""
    texts = ("a" * lengths[0], "b" * lengths[1])
    ids = encode_input(RTE, texts, BYTES, prefix=True, max_length=max_length)
    # "rte: sentence1:", " sentence2:", the end; each text stands with the space before it.
    room = max_length - len("rte: sentence1: sentence2:") - 1
    kept = [lengths[0] + 1, lengths[1] + 1]
    while sum(kept) > room:
        kept[kept.index(max(kept))] -= 1
    decoded = BYTES.decode(ids[:-1])
    assert ids[-1] == BYTES.eos_token_id
    assert len(ids) == min(max_length, sum(lengths) + 2 + len("rte: sentence1: sentence2:") + 1)
    assert decoded.startswith("rte: sentence1: ") and " sentence2:" in decoded
    found = (decoded.count("a") + 1, decoded.count("b") + 1)
    assert sorted(found) == sorted(kept)
    assert all(a <= b + 1 for a, b in zip(found, lengths, strict=True))


def test_cutting_keeps_beginnings(tokenizers: list[Any]) -> None:
    texts = ("the cat is in the house " * 30, "a dog reads a book " * 30)
    for tokenizer in tokenizers:
        for max_length in (60, 61):
            ids = encode_input(RTE, texts, tokenizer, prefix=True, max_length=max_length)
            text = tokenizer.decode(ids[:-1])
            assert len(ids) == max_length
            first, second = text.removeprefix("rte: sentence1: ").split(" sentence2: ")
            assert texts[0].startswith(first) and texts[1].startswith(second)


def test_a_short_text_is_kept_whole() -> None:
    texts = ("the cat " * 100, "a dog")
    ids = encode_input(RTE, texts, WORDS, prefix=True, max_length=40)
    assert len(ids) == 40
    assert ids[-2:] == whole("a dog", WORDS)[-2:]
    assert WORDS.decode(ids[:-1]).endswith("sentence2: a dog")


def test_no_room_for_the_text() -> None:
    least = len("rte: sentence1: sentence2:") + 1 + 2
    ids = encode_input(RTE, ("a", "b"), BYTES, prefix=True, max_length=least)
    assert len(ids) == least
    message = f"rte: an input of {least - 1} tokens leaves .* raise .* to {least} or more"
    with pytest.raises(InputError, match=message):
        encode_input(RTE, ("a", "b"), BYTES, prefix=True, max_length=least - 1)
    bare = least - len("rte: ")
    assert len(encode_input(RTE, ("a", "b"), BYTES, prefix=False, max_length=bare)) == bare


def test_targets_end_with_the_end(tokenizers: list[Any]) -> None:
    for tokenizer in tokenizers:
        for text in ("not_entailment", "A0", "3.8", "0"):
            ids = encode_label(text, tokenizer)
            assert ids == whole(text, tokenizer)
            assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id
            assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("name", [name for name in TASKS if not TASKS[name].is_score])
def test_label_modes(name: str) -> None:
    task = TASKS[name]
    n = len(task.labels)
    assert label_texts(task, "natural") == list(task.labels)
    assert label_texts(task, "synthetic") == [f"{task.letter}{k}" for k in range(n)]
    assert label_texts(task, "numeric") == ["0", "1", "2"][:n]
    for mode in ("natural", "synthetic", "numeric"):
        assert [label_text(task, k, mode) for k in range(n)] == label_texts(task, mode)


def test_synthetic_labels_are_no_other_tasks() -> None:
    hub = [task for task in TASKS.values() if task.origin == "hub" and not task.is_score]
    texts = [text for task in hub for text in label_texts(task, "synthetic")]
    assert len(set(texts)) == len(texts)


def test_unknown_label_mode() -> None:
    with pytest.raises(InputError, match="unknown label mode 'naturel'.*Did you mean 'natural'"):
        label_text(RTE, 0, "naturel")


def test_the_grid_of_scores() -> None:
    grid = label_texts(STSB, "natural")
    assert grid == [f"{k / 5:.1f}" for k in range(26)]
    assert grid == label_texts(STSB, "synthetic") == label_texts(STSB, "numeric")


@settings(deadline=None)
@given(st.floats(0, 5, width=32))
def test_scores_are_rounded_as_t5_does(score: float) -> None:
    """T5 formats STS-B labels, float32 in its data, with `"%.1f" % (round(score * 5) / 5)`."""
    expected = f"{np.round(np.float32(score) * np.float32(5)) / 5:.1f}"
    assert label_text(STSB, score, "natural") == expected
    assert expected in label_texts(STSB, "natural")


@settings(deadline=None)
@given(
    low=st.integers(-20, 20),
    step=st.sampled_from([0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 10.0]),
    steps=st.integers(1, 60),
    data=st.data(),
)
def test_any_grid(low: int, step: float, steps: int, data: st.DataObject) -> None:
    high = low + steps * step
    task = replace(STSB, score_range=(float(low), high), step=step)
    grid = label_texts(task, "natural")
    numbers = [float(text) for text in grid]
    assert len(set(grid)) == steps + 1
    assert numbers == pytest.approx([low + k * step for k in range(steps + 1)], abs=1e-9)
    assert "-0" not in {text.rstrip("0").rstrip(".") for text in grid if float(text) == 0}
    score = data.draw(st.floats(low, high))
    nearest = min(abs(score - number) for number in numbers)
    found = float(label_text(task, score, "natural"))
    assert abs(score - found) == pytest.approx(nearest, abs=1e-4)


def test_whole_steps_have_no_decimals() -> None:
    stars = replace(STSB, score_range=(1.0, 5.0), step=1.0)
    assert label_texts(stars, "natural") == ["1", "2", "3", "4", "5"]
