"""What the trunk reads and writes: the input `<task>: <field>: <text> ...` and the label texts, as tokens.

An encoder-decoder reads what its tokenizer makes of the text, `text </s>` with T5's, and writes `label </s>`. A causal
language model reads `text`, behind the token that its tokenizer begins with, if any (Llama's <s>, Gemma's <bos>), and
goes on with ` label </s>`: nothing ends the text, and the label's first token is that of a word behind a space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np

from compt_fast.config.choices import LABEL_MODES
from compt_fast.tasks.table import Task
from compt_fast.utils.errors import InputError, unknown


def label_text(task: Task, label: int | float, mode: str) -> str:
    """What the trunk is to write for a label (CrossPT, section 4.5, compares the modes).

    "natural": the label word; "synthetic": the task's letter and the class id ("A0"); "numeric":
    the class id. A score is the nearest number of the task's grid in every mode ("3.8").
    """
    if mode not in LABEL_MODES:
        raise unknown("label mode", mode, LABEL_MODES)
    if task.is_score:
        return _score_text(task, float(label))
    return {
        "natural": task.labels[int(label)],
        "synthetic": f"{task.letter}{label}",
        "numeric": str(label),
    }[mode]


def label_texts(task: Task, mode: str) -> list[str]:
    """Every text that is a label: by class id, or the whole grid of a score, lowest first."""
    if not task.is_score:
        return [label_text(task, k, mode) for k in range(len(task.labels))]
    low, high = task.score_range
    steps = round((high - low) / task.step)
    return [label_text(task, low + k * task.step, mode) for k in range(steps + 1)]


def _score_text(task: Task, score: float) -> str:
    """The nearest number of the grid, halves to the even step: T5's rounding of STS-B (float32)."""
    low, step = (Decimal(str(number)).normalize() for number in (task.score_range[0], task.step))
    k = np.round(np.float32(score - float(low)) * np.float32(1 / task.step))
    decimals = max(0, *(-int(number.as_tuple().exponent) for number in (low, step)))
    return f"{low + int(k) * step:.{decimals}f}"


@dataclass(frozen=True)
class Frame:
    """What a tokenizer puts around texts: tokens `before` and `after` an input's, and what stands `between` two texts,
    a space or, where the tokenizer itself begins every text with one, nothing. `continues`: the label follows the input
    as a further text.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    between: str
    continues: bool


@lru_cache(maxsize=8)
def frame_of(tokenizer: Any) -> Frame:
    """The frame of a tokenizer. One that pads on the left, as transformers asks of causal language models, is of a
    trunk that continues what it reads.
    """
    word, other, spaced, two = _tokens(["a", "in", " a", "in a"], tokenizer)
    whole = tokenizer("a", verbose=False)["input_ids"]
    at = next((n for n in range(len(whole)) if whole[n : n + len(word)] == word), 0)
    own = two == [*other, *word] and spaced != word  # Llama 2 reads a space twice where one is given to it
    continues = tokenizer.padding_side == "left"
    after = () if continues else tuple(whole[at + len(word) :])
    return Frame(tuple(whole[:at]), after, "" if own else " ", continues)


def encode_label(text: str, tokenizer: Any) -> list[int]:
    """Token ids of a label text, `</s>` at the end."""
    frame = frame_of(tokenizer)
    said = f"{frame.between}{text}" if frame.continues else text
    return [*_tokens([said], tokenizer)[0], tokenizer.eos_token_id]


def check_writable(task: Task, mode: str, tokenizer: Any) -> None:
    """Raise `InputError` for a label that the trunk cannot write: what its tokens say is another text, which no
    prediction would ever match.
    """
    texts = label_texts(task, mode)
    written = tokenizer.batch_decode([encode_label(text, tokenizer) for text in texts], skip_special_tokens=True)
    for text, back in zip(texts, written, strict=True):
        if back.strip() != text:
            raise InputError(
                f"{task.name}: the trunk's tokenizer cannot write the label {text!r} (it comes back as "
                f"{back.strip()!r}); take other label words or another --label-mode"
            )


def input_text(task: Task, row_texts: Sequence[str], *, prefix: bool) -> str:
    """`<task>: <field>: <text> <field>: <text>`, as the trunk reads it where nothing is cut."""
    parts = zip(names_before(task, prefix), row_texts, strict=True)
    return "".join(f"{name} {text.strip()}" for name, text in parts)


@dataclass(frozen=True)
class InputTokens:
    """A row's whole text as token ids: what stands before each of its texts, the texts, and what frames them."""

    task: Task
    names: list[list[int]]
    texts: list[list[int]]
    frame: Frame

    @property
    def length(self) -> int:
        """Tokens of all of it."""
        return sum(map(len, (*self.names, *self.texts, self.frame.before, self.frame.after)))

    def cut(self, max_length: int) -> list[int]:
        """At most `max_length` of them, which the prompt does not count to, an encoder-decoder's `</s>` at the end.

        A row that is too long loses tokens at the ends of its texts, the longest text first; the prefix and the
        field names stay whole. Raises `InputError` where the names alone do not fit.
        """
        kept = _shares([len(ids) for ids in self.texts], self._room(max_length))
        pieces = zip(self.names, self.texts, kept, strict=True)
        inner = (token for name, text, n in pieces for token in (*name, *text[:n]))
        return [*self.frame.before, *inner, *self.frame.after]

    def _room(self, max_length: int) -> int:
        """Tokens left for the texts."""
        fixed = sum(map(len, (*self.names, self.frame.before, self.frame.after)))
        if fixed + len(self.names) > max_length:
            raise InputError(
                f"{self.task.name}: an input of {max_length} tokens leaves no room for the text: "
                f"prefix, field names and end take {fixed}; raise --max-source-length to "
                f"{fixed + len(self.names)} or more"
            )
        return max_length - fixed


def read_input(task: Task, row_texts: Sequence[str], tokenizer: Any, *, prefix: bool) -> InputTokens:
    """Token ids of `<task>: <field>: <text> <field>: <text>`, uncut.

    `row_texts` stand in the order of `Task.fields`; without `prefix` the task's name is left out.
    """
    (read,) = read_inputs([(task, prefix, row_texts)], tokenizer)
    return read


def read_inputs(rows: Sequence[tuple[Task, bool, Sequence[str]]], tokenizer: Any) -> list[InputTokens]:
    """As `read_input`, of many rows at once, each with its task and whether that begins its text."""
    # Cutting at spaces changes no token: sentencepiece tokens and those of byte pairs cross none, and bytes are bytes.
    # The space stays with the piece that follows it.
    frame = frame_of(tokenizer)
    kinds = list(dict.fromkeys((task, prefix) for task, prefix, _ in rows))
    names = [name if frame.between else name.lstrip() for kind in kinds for name in names_before(*kind)]
    said = (f"{frame.between}{text.strip()}" for _, _, texts in rows for text in texts)
    pieces = iter(_tokens([*names, *said], tokenizer))
    named = {(task, prefix): list(islice(pieces, len(task.fields))) for task, prefix in kinds}
    return [
        InputTokens(task, named[task, prefix], list(islice(pieces, len(texts))), frame) for task, prefix, texts in rows
    ]


def unknown_words(row_texts: Sequence[str], tokenizer: Any) -> list[str]:
    """The words of some texts that hold a character which the tokenizer does not know."""
    words = [word for text in row_texts for word in text.split()]
    return [word for word, ids in zip(words, _tokens(words, tokenizer), strict=True) if tokenizer.unk_token_id in ids]


def names_before(task: Task, prefix: bool) -> list[str]:
    """What stands before each text of a row; with `prefix` the task's name before the first."""
    names = [f" {name}:" for _, name in task.fields]
    names[0] = f"{task.prefix}:{names[0]}" if prefix else names[0].lstrip()
    return names


def _tokens(texts: list[str], tokenizer: Any) -> list[list[int]]:
    # Not verbose: the warning that a text is longer than the model's usual length is moot, as it is
    # cut here.
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def _shares(lengths: list[int], room: int) -> list[int]:
    """How much of each text is kept: the longest are cut to one length, so that all fit."""
    kept = list(lengths)
    by_length = sorted(range(len(lengths)), key=lambda k: lengths[k])
    for done, k in enumerate(by_length):
        kept[k] = min(lengths[k], room // (len(lengths) - done))
        room -= kept[k]
    return kept
