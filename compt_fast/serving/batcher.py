"""One thread that runs the trunk, and the rows that wait for it: batches over requests and tasks, by tokens."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from compt_fast.prediction.predictor import Answer, Predictor
from compt_fast.prediction.rows import EncodedRow
from compt_fast.serving.limits import Limits
from compt_fast.serving.metrics import Metrics

NEWEST = 0.2  # the share of the newest batch in the rate by which Retry-After is guessed
SMALL = 0.25  # the share of `batch_tokens` from which on nobody is waited for
AGAIN = 0.1  # the share of the newest batch's seconds for which those it answered are waited for
logger = logging.getLogger(__name__)


class QueueFull(Exception):
    """The queue has no room for a job's rows; `seconds` is when it may have, a whole number of at least 1."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many rows wait; try again in {seconds} s")
        self.seconds = seconds


class Stopping(Exception):
    """The server answers what it holds, and takes nothing more."""


class Unavailable(Exception):
    """Nothing runs that could answer."""


@dataclass(eq=False)
class Job:
    """The rows of one request, encoded with the prompts of `predictor`, which answers them whatever is served later.

    `future` gives the answers in the rows' order, or the error that the trunk raised. The first `begun` rows have been
    taken into batches.
    """

    rows: Sequence[EncodedRow]
    predictor: Predictor
    scores: bool
    future: Future[list[Answer]] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    begun: int = 0
    answers: list[Answer] = field(default_factory=list)

    @property
    def waiting(self) -> Sequence[EncodedRow]:
        """The rows that are in no batch yet."""
        return self.rows[self.begun :]

    def shares(self, other: Job) -> bool:
        """Whether rows of both can stand in one batch."""
        return self.predictor is other.predictor and self.scores == other.scores


class Answering(Protocol):
    """What answers the jobs of a server: a `Batcher`, or the replicas of a cluster."""

    @property
    def idle(self) -> bool:
        """Whether every job that was accepted is answered or dropped."""

    @property
    def alive(self) -> bool:
        """Whether it works; where it does not, the process has to be started anew."""

    @property
    def stopping(self) -> bool:
        """Whether jobs are refused."""

    def submit(self, job: Job) -> None:
        """Accept a job: its future will be done. Raises `QueueFull` or `Stopping` where it is not accepted."""

    def drop(self, job: Job) -> None:
        """Cancel a job's future and forget its rows that wait: nobody asks for them any more."""

    def refuse(self) -> None:
        """Accept nothing from now on; what is held is answered without waiting for more."""

    def close(self) -> None:
        """Refuse, answer all that is held, and end."""


class Pace:
    """How fast rows are answered, by which Retry-After is guessed."""

    def __init__(self) -> None:
        self._seconds_a_row = 0.0

    def of_batch(self, rows: int, seconds: float) -> None:
        """Note what a batch took."""
        self._seconds_a_row += NEWEST * (seconds / rows - self._seconds_a_row)

    def full(self, rows: int) -> QueueFull:
        """The error for a queue of that many rows."""
        return QueueFull(max(1, math.ceil(rows * self._seconds_a_row)))


Part = tuple[Job, Sequence[EncodedRow]]  # what a batch takes of a job


def tokens_of(row: EncodedRow) -> int:
    """What a row takes of a batch: the tokens of its prompt and of its text."""
    return row.prompt.prompts.shape.target_length + len(row.input_ids)


class Batcher:
    """Takes jobs from any thread and answers them in one of its own.

    A batch holds rows of the first job, and of those behind it that can stand beside them, of whatever tasks, until the
    next row would exceed `batch_tokens`; a row that is longer goes alone. Where fewer tokens wait, the batch begins
    once its first job has waited `max_wait_ms`. Jobs are taken as they came; one that has more rows than a batch had
    room for goes on behind the others, so that a long one delays short ones by a batch.

    Clients who ask again as soon as they are answered would fall into groups that take turns, each in a batch of its
    own. So a small batch waits a moment, a share of what the one before took, for as many jobs as that one answered and
    left behind. A larger one gains less by more rows than is lost while the trunk does nothing.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._changed = threading.Condition()  # guards all below
        self._queue: deque[Job] = deque()  # those with rows that wait
        self._rows = 0  # that wait
        self._open: set[Job] = set()  # neither answered nor dropped
        self._stopping = False
        self._pace = Pace()
        self._answered = self._expected = 0  # jobs of the newest batch, and with those that waited as it ended
        self._again = -math.inf  # the moment until which these are waited for
        self._thread = threading.Thread(target=self._run, name="trunk", daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether every job that was accepted is answered or dropped."""
        return not self._open

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    @property
    def stopping(self) -> bool:
        """Whether jobs are refused."""
        return self._stopping

    def submit(self, job: Job) -> None:
        """Accept a job: its future will be done. Raises `QueueFull` or `Stopping` where it is not accepted."""
        with self._changed:
            if self._stopping:
                raise Stopping
            if self._rows + len(job.rows) > self._limits.queue_rows:
                raise self._pace.full(self._rows)
            self._open.add(job)
            self._queue.append(job)
            self._count(len(job.rows))
            self._changed.notify()

    def drop(self, job: Job) -> None:
        """Cancel a job's future and forget its rows that wait: nobody asks for them any more."""
        job.future.cancel()
        self._close(job)

    def refuse(self) -> None:
        """Accept nothing from now on; what is held is answered without waiting for more."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def close(self) -> None:
        """Refuse, answer all that is held, and end the thread."""
        self.refuse()
        self._thread.join()

    def _count(self, rows: int) -> None:
        self._rows += rows
        self._metrics.queue_rows.set(self._rows)

    def _close(self, job: Job) -> None:
        with self._changed:
            self._open.discard(job)
            if job in self._queue:
                self._queue.remove(job)
                self._count(-len(job.waiting))

    def _run(self) -> None:
        while parts := self._next():
            began = time.monotonic()
            rows = [row for _, own in parts for row in own]
            try:
                answers = iter(parts[0][0].predictor.answer(rows, scores=parts[0][0].scores))
            except Exception as error:  # of one batch; the thread goes on with the next
                logger.exception("a batch of %d rows failed", len(rows))
                for job, _ in parts:
                    self._close(job)
                    with suppress(InvalidStateError):
                        job.future.set_exception(error)
                continue
            seconds = time.monotonic() - began
            self._answered, self._again = len(parts), time.monotonic() + AGAIN * seconds
            self._pace.of_batch(len(rows), seconds)
            self._metrics.of_batch(len(rows), sum(map(tokens_of, rows)), self._limits.batch_tokens, seconds)
            for job, own in parts:
                job.answers += [next(answers) for _ in own]
                if len(job.answers) == len(job.rows):
                    with suppress(InvalidStateError):  # it was dropped
                        job.future.set_result(job.answers)
                    self._close(job)

    def _next(self) -> list[Part]:
        """The next batch, when it is time for it; an empty one at the end."""
        with self._changed:
            self._expected = self._answered + len(self._queue)
            while True:
                if not self._queue:
                    if self._stopping:
                        return []
                    self._changed.wait()
                    continue
                left = self._begins() - time.monotonic()
                if left <= 0 or self._stopping or self._fill() >= 1:
                    return self._take()
                self._changed.wait(left)

    def _begins(self) -> float:
        """The moment at which the next batch begins if no further job comes."""
        waited = self._queue[0].arrived + self._limits.max_wait_ms / 1000
        if time.monotonic() >= self._again or self._fill() >= SMALL:
            return waited
        return -math.inf if len(self._queue) >= self._expected else max(waited, self._again)

    def _fill(self) -> float:
        """The tokens that could begin now, in parts of `batch_tokens`."""
        first = self._queue[0]
        waiting = (row for job in self._queue if job.shares(first) for row in job.waiting)
        return sum(map(tokens_of, waiting)) / self._limits.batch_tokens

    def _take(self) -> list[Part]:
        first, room = self._queue[0], self._limits.batch_tokens
        parts: list[Part] = []
        for job in [job for job in self._queue if job.shares(first)]:
            start = job.begun
            for row in job.waiting:
                room -= tokens_of(row)
                if room < 0 and (parts or job.begun > start):
                    break
                job.begun += 1
            if job.begun == start:  # no room for its next row, whose turn comes
                break
            parts.append((job, job.rows[start : job.begun]))
            self._queue.remove(job)
            if job.waiting:
                self._queue.append(job)
                break
        self._count(-sum(len(own) for _, own in parts))
        return parts
