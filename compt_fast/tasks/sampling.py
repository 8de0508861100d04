"""Which rows a run trains on, is tuned on and is scored on, and in which order it sees them.

All draws come from NumPy's `RandomState`, whose streams are frozen: the same seed gives the same
rows with every version.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np

from compt_fast.config.choices import SAMPLINGS
from compt_fast.tasks.table import Task
from compt_fast.utils.errors import InputError, unknown

# Rows set aside for development where all rows are asked for: at most so many, and at most a tenth.
# Ours.
FULL_DEVELOPMENT = 300


def _stream(seed: int, number: int) -> np.random.RandomState:
    if not 0 <= seed < 2**32:
        raise InputError(f"seed {seed}: it must be a whole number from 0 to {2**32 - 1}")
    return np.random.RandomState([seed, number])


@dataclass(frozen=True)
class Draw:
    """What decides which rows a run trains on: its `shots` (None: all, at most `max_train`), seed and sampling."""

    shots: int | None
    seed: int
    sampling: str
    max_train: int


def draw_training(labels: np.ndarray, task: Task, draw: Draw, *, development: bool) -> np.ndarray:
    """Indices (int64) of a run's examples of one task.

    `labels` (n,) are those of all training rows. `sampling` "balanced" gives every class the same
    number of examples, or one more, "random" draws uniformly, as does every draw of a score, which
    has no classes. A draw of fewer shots with the same seed is the beginning of a draw of more.
    `shots` None draws at most `max_train` uniformly, and leaves rows for a `development` sample
    where there is to be one. Raises `InputError` where a task, or a class of it, has fewer rows than
    the draw needs.
    """
    return _order(labels, task, draw)[: _count(len(labels), draw, development)]


def draw_development(labels: np.ndarray, task: Task, draw: Draw, seen: np.ndarray) -> np.ndarray:
    """Indices (int64) of a run's development sample: as many further rows as it has shots, fewer where rows run out,
    and none that it trains on or that it has `seen` (indices) through what it starts from.
    """
    trained = _count(len(labels), draw, True)
    left = _order(labels, task, draw)[trained:]
    left = left[~np.isin(left, seen)]
    return left[: _set_aside(len(labels)) if draw.shots is None else draw.shots]


def _set_aside(rows: int) -> int:
    return min(FULL_DEVELOPMENT, rows // 10)


def _count(rows: int, draw: Draw, development: bool) -> int:
    if draw.shots is not None:
        return draw.shots
    return min(draw.max_train, rows - (_set_aside(rows) if development else 0))


def _order(labels: np.ndarray, task: Task, draw: Draw) -> np.ndarray:
    """All rows of a task in the order of the draw."""
    shots, sampling = draw.shots, draw.sampling
    if sampling not in SAMPLINGS:
        raise unknown("sampling", sampling, SAMPLINGS)
    stream = _stream(draw.seed, crc32(task.name.encode()))
    if shots is None:
        return stream.permutation(len(labels))
    if shots > len(labels):
        raise InputError(f"{task.name}: {shots} shots, but the training split has {len(labels)} rows; lower --shots")
    if sampling == "random" or task.is_score:
        return stream.permutation(len(labels))
    return _balanced_order(labels, task, shots, stream)


def _balanced_order(labels: np.ndarray, task: Task, shots: int, stream: np.random.RandomState) -> np.ndarray:
    """All rows so that class after class takes its turn; which class begins is drawn too. A class
    that is used up is passed over, which the first `shots` rows must not need."""
    classes = stream.permutation(len(task.labels))
    members = [stream.permutation(np.flatnonzero(labels == c)) for c in classes]
    for turn, (c, rows) in enumerate(zip(classes, members, strict=True)):
        needed = (shots - turn + len(classes) - 1) // len(classes)
        if len(rows) < needed:
            raise InputError(
                f"{task.name}: {shots} class-balanced shots need {needed} rows labelled "
                f"{task.labels[c]!r}, but the training split has {len(rows)}; "
                "lower --shots or draw with --sampling random"
            )
    rounds = np.concatenate([np.arange(len(rows)) for rows in members])
    turns = np.concatenate([np.full(len(rows), turn) for turn, rows in enumerate(members)])
    return np.concatenate(members)[np.lexsort((turns, rounds))]


def fixed_order(n: int) -> np.ndarray:
    """A shuffle (n,) of `n` rows that no seed changes."""
    return np.random.RandomState(0).permutation(n)


def evaluation_indices(n: int, size: int, groups: np.ndarray | None = None) -> np.ndarray:
    """The rows every run is scored on: the first `size` of `n` in the fixed shuffle, or all.

    Rows of one of the `groups` (n,) stay together: the first groups of a fixed shuffle, each whole, as many as have
    `size` rows or fewer, and at least one.
    """
    if groups is None:
        return fixed_order(n)[:size]
    by_group = np.argsort(groups, kind="stable")
    members = np.split(by_group, np.flatnonzero(np.diff(groups[by_group])) + 1)
    members = [members[k] for k in fixed_order(len(members))]
    fitting = int(np.searchsorted(np.cumsum([len(rows) for rows in members]), size, side="right"))
    return np.concatenate(members[: max(1, fitting)])


class EpochOrder:
    """The order in which a run sees its rows: a fresh permutation every epoch, from (seed, epoch).

    Any step's batch can be asked for at any time, so a resumed run needs only its step count. The
    last batch of an epoch holds what is left.
    """

    def __init__(self, rows: int, batch_size: int, seed: int) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = -(-rows // batch_size)

    def batch(self, step: int) -> np.ndarray:
        """Indices (at most `batch_size`, int64) of the rows of step `step`, from 0."""
        epoch, part = divmod(step, self.steps_per_epoch)
        order = _stream(self.seed, epoch).permutation(self.rows)
        return order[part * self.batch_size : (part + 1) * self.batch_size]
