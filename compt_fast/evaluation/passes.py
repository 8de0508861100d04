"""Which rows go through the trunk together when runs are scored: batches of a run's own rows, several in a pass.

A run's rows are sorted by length and cut into batches of `batch_size`, whatever else is scored: so its predictions do
not depend on the fleet that it trained in. A pass takes the next batch, and behind it those of the following ones, of
any run, that fit in. On a CPU that is up to `batch_size` rows in all: a full batch fills its caches, and what is left
of a run, or a sample for `--select best`, goes through with others'. A GPU takes more at a time, as long as that needs
no more memory than the longest rows would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from compt_fast.models.api import Trunk
from compt_fast.prompts.artifact import RunPrompts
from compt_fast.tasks.examples import ScoredRows

WIDE = 8  # batches of full size that a pass takes on a GPU, at most (ours)
TOKENS = 1 << 16  # of a pass on a GPU, prompts included, at most: 128 rows of 512 (ours)
AHEAD = 64  # batches from which a pass is filled up (ours)


@dataclass(frozen=True)
class Asked:
    """What a run is scored on: the rows of `sets`, one a task in the slots' order, which its `prompts` make `trunk`
    answer, by labels that are written as `mode` says.
    """

    trunk: Trunk
    prompts: RunPrompts
    sets: list[ScoredRows]
    mode: str

    def goes_with(self, other: Asked) -> bool:
        """Whether rows of both can be in a pass: of one trunk that tells them apart, which reads and writes alike."""
        kinds = [(id(each.trunk), each.mode, each.prompts.shape.updates_inputs) for each in (self, other)]
        return self.trunk.joins and kinds[0] == kinds[1]


@dataclass(frozen=True)
class Part:
    """A batch of rows of the run that is asked for as the `number`th, from 0: each by the number of its set and its own
    in that; `tokens` of all, prompts included.
    """

    number: int
    asked: Asked
    rows: Sequence[tuple[int, int]]
    tokens: int


def passes(asked: Iterable[Asked], batch_size: int) -> Iterator[list[Part]]:
    """All rows of what is asked for, a pass at a time."""
    parts = chain.from_iterable(_parts(number, each, batch_size) for number, each in enumerate(asked))
    left: list[Part] = []
    while True:
        left += islice(parts, AHEAD - len(left))
        if not left:
            return
        taken = [left[0]]
        rest: list[Part] = []
        for part in left[1:]:
            (taken if _fits(part, taken, batch_size) else rest).append(part)
        left = rest
        yield taken


def _parts(number: int, asked: Asked, batch_size: int) -> Iterator[Part]:
    """The batches of one run, its longest rows last."""
    inputs = [of.inputs for of in asked.sets]
    rows = [(t, i) for t, of in enumerate(inputs) for i in range(len(of))]
    rows.sort(key=lambda row: len(inputs[row[0]][row[1]]))
    prompt = asked.prompts.shape.target_length
    for start in range(0, len(rows), batch_size):
        own = rows[start : start + batch_size]
        yield Part(number, asked, own, sum(prompt + len(inputs[t][i]) for t, i in own))


def _fits(part: Part, taken: Sequence[Part], batch_size: int) -> bool:
    """Whether a pass has room for a part beside those that were taken."""
    together = [*taken, part]
    rows, tokens = sum(len(each.rows) for each in together), sum(each.tokens for each in together)
    if part.asked.trunk.device.type == "cpu":
        room = rows <= batch_size
    else:
        room = rows <= WIDE * batch_size and tokens <= TOKENS
    return room and part.asked.goes_with(taken[0].asked)
