"""What every gate, router, normalisation, prompt encoder and composition declares, each in a file of its own.

The folders of these names say what one of each adds to it. All tensors of a run's parameters have a leading run axis R
when a formula gets them; the sizes that an entry declares are without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # choices are listed where no torch is loaded
    from torch import Tensor

    from compt_fast.prompts.shape import PromptShape


VOCABULARY = "vocabulary"
"""Where a parameter (..., k, d) starts: k rows of the trunk's vocabulary, none of them twice."""


@dataclass(frozen=True)
class Parameter:
    """A trainable tensor: its size without the run axis, where it starts, and the learning rate it trains at.

    initial: bounds of the uniform distribution that its numbers are drawn from, of equal bounds the number that all of
    them are; `VOCABULARY`; None: drawn as the flag --init says. group: "source", "private", "router" or "update", for
    the flags --lr-source, --lr-private, --lr-router and --lr-update.
    """

    size: tuple[int, ...]
    initial: tuple[float, float] | str | None = (0.0, 0.0)
    group: str = "router"


def no_parameters(shape: PromptShape) -> dict[str, Parameter]:
    """The parameters of an entry that learns nothing."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What decides the paths that an entry's prompts take.

    kernel: the word of `compt_fast.kernels.plan.COMPUTED` for what computes it; with None, as every new entry begins,
    the formula does, on every path. captured: a CUDA graph may hold its formula, which neither waits for the device nor
    makes a shape that depends on data.
    """

    kernel: str | None = None
    captured: bool = False


@dataclass(frozen=True)
class Texts:
    """The texts of B input rows as a trunk embeds them: `embeddings` (N, d) in any float dtype of the N tokens of all
    rows, one row after the other, each with its </s>; `lengths` (B,) int64 are their tokens.
    """

    embeddings: Tensor
    lengths: Tensor

    @cached_property
    def means(self) -> Tensor:
        """The mean of each row's token embeddings: (B, d)."""
        return self._reduced("mean")

    @cached_property
    def maxima(self) -> Tensor:
        """The largest value of each component among a row's token embeddings: (B, d)."""
        return self._reduced("max")

    def _reduced(self, how: str) -> Tensor:
        from torch import segment_reduce

        return segment_reduce(self.embeddings, how, lengths=self.lengths)

    @cached_property
    def places(self) -> Tensor:
        """Each token's place in its row, counted from 0: (N,) int64."""
        from torch import arange

        firsts = self.lengths.cumsum(0) - self.lengths
        return arange(len(self.embeddings), device=self.lengths.device) - self.by_token(firsts)

    def by_token(self, of_rows: Tensor) -> Tensor:
        """What each token's row has in `of_rows` (B,): (N,)."""
        return of_rows.repeat_interleave(self.lengths, output_size=len(self.embeddings))

    def split(self, counts: Sequence[int]) -> list[Texts]:
        """The texts of the first counts[0] rows, of the next counts[1] rows, and so on."""
        lengths = self.lengths.split(list(counts))
        embeddings = self.embeddings.split([int(own.sum()) for own in lengths])
        return [Texts(*own) for own in zip(embeddings, lengths, strict=True)]


@dataclass(frozen=True)
class Rows:
    """B input rows, for entries that compose a prompt for each (`per_row`) or update their texts.

    runs and tasks (B,) int64 say whose each row is, texts what stands in it.
    sources (R, N, m, d) and privates (R, T, m, d) are the encoded prompts, None where there are none.
    """

    runs: Tensor
    tasks: Tensor
    texts: Texts
    sources: Tensor | None
    privates: Tensor | None
