"""Greedy decoding: the answer is whatever the trunk writes, label or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from compt_fast.evaluation.scorings import Labels
from compt_fast.models.api import Trunk
from compt_fast.models.batch import Batch, TargetPrompts


def generated(
    trunk: Trunk,
    targets: TargetPrompts,
    batch: Batch,
    labels: Sequence[Labels],
    longest: int,
    input_update: Tensor | None = None,
) -> Callable[[], list[str]]:
    """The texts that the trunk writes, of up to `longest` tokens."""
    written = trunk.begin_generate(targets, batch, longest, input_update)
    return lambda: texts_of(trunk, written(), [longest] * len(labels))


def texts_of(trunk: Trunk, ids: Sequence[list[int]], most: Sequence[int]) -> list[str]:
    """The texts of what the trunk wrote, of up to `most` tokens by row."""
    own = [tuple(row[:length]) for row, length in zip(ids, most, strict=True)]
    distinct = list(dict.fromkeys(own))  # a thousand rows are answered by a few labels
    texts = trunk.tokenizer.batch_decode([list(row) for row in distinct], skip_special_tokens=True)
    text_of = {row: text.strip() for row, text in zip(distinct, texts, strict=True)}
    return [text_of[row] for row in own]


ENTRY = generated
