"""Which rows a run trains on, is tuned on and is scored on, and in which order it sees them.

All draws come from NumPy's `RandomState`, whose streams are frozen: the same seed gives the same
rows with every version.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np

from compt_fast.choices import SAMPLINGS
from compt_fast.errors import InputError, unknown
from compt_fast.tasks.table import Task

# Rows set aside for development where all rows are asked for: at most so many, and at most a tenth.
# Ours.
FULL_DEVELOPMENT = 300


def _stream(seed: int, number: int) -> np.random.RandomState:
    if not 0 <= seed < 2**32:
        raise InputError(f"seed {seed}: it must be a whole number from 0 to {2**32 - 1}")
    return np.random.RandomState([seed, number])


def draw_shots(
    labels: np.ndarray, task: Task, shots: int | None, seed: int, sampling: str, max_train: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (int64) of a run's examples of one task, and of its development sample.

    `labels` (n,) are those of all training rows. `shots` examples are drawn, and as many further
    ones, disjoint, for development (fewer where rows run out); `sampling` "balanced" gives every
    class the same number of examples, or one more, "random" draws uniformly, as does every draw of
    a score, which has no classes. A draw of fewer shots with the same seed is the beginning of a
    draw of more. `shots` None (all rows) draws at most `max_train` uniformly. Raises `InputError`
    where a task, or a class of it, has fewer rows than the draw needs.
    """
    if sampling not in SAMPLINGS:
        raise unknown("sampling", sampling, SAMPLINGS)
    stream = _stream(seed, crc32(task.name.encode()))
    if shots is None:
        order = stream.permutation(len(labels))
        development = min(FULL_DEVELOPMENT, len(labels) // 10)
        train = min(max_train, len(labels) - development)
        return order[:train], order[train : train + development]
    if shots > len(labels):
        raise InputError(f"{task.name}: {shots} shots, but the training split has {len(labels)} rows; lower --shots")
    if sampling == "random" or task.is_score:
        order = stream.permutation(len(labels))
    else:
        order = _balanced_order(labels, task, shots, stream)
    return order[:shots], order[shots : 2 * shots]


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


def evaluation_indices(n: int, size: int) -> np.ndarray:
    """The rows every run is scored on: the first `size` of `n` in the fixed shuffle, or all."""
    return fixed_order(n)[:size]


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
