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
    own = [row[:length] for row, length in zip(ids, most, strict=True)]
    return [text.strip() for text in trunk.tokenizer.batch_decode(own, skip_special_tokens=True)]


ENTRY = generated
