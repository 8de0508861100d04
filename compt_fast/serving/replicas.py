"""Replicas of Ray Serve that run the trunk, and what gives them the jobs of a server."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import InvalidStateError
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from uuid import uuid4
from weakref import WeakKeyDictionary

import ray
import torch
from ray.exceptions import ActorUnavailableError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from compt_fast.config.job import JobSettings
from compt_fast.prediction.predictor import Answer, Predictor
from compt_fast.prediction.prompts import TaskPrompt
from compt_fast.prediction.rows import EncodedRow
from compt_fast.runs.job import named_trunk
from compt_fast.serving.batcher import Batcher, Job, Pace, Stopping, Unavailable
from compt_fast.serving.limits import Limits
from compt_fast.serving.metrics import Metrics
from compt_fast.utils.cluster import gone
from compt_fast.utils.errors import InputError

TRIES = 5
"""Replicas that may end while they hold a job before it fails: rows that end every process that they come to must not
end all.
"""
TOGETHER = 2  # of these: jobs that saw so many end are tried one at a time, lest one takes the others with it each time
HEARD = 10  # seconds for which a replica that has answered counts as one that does
FAILURES = 16  # of jobs, one after the other and none answered between them, from which on nothing works
PAUSE = 0.2  # seconds until the next: by then the router has heard which one is gone
SETS = 4  # of prompts that a replica holds: those before a change are needed until their last job is answered
logger = logging.getLogger(__name__)

Prompts = Mapping[str, TaskPrompt]
Row = tuple[str, list[int]]  # a task, and the token ids of a text
BatchCounts = tuple[int, int, int, float]  # the arguments of `Metrics.of_batch`


class _Noted(Metrics):
    """What a replica counts, until an answer takes it along to the process that clients ask for it."""

    def __init__(self) -> None:
        super().__init__()
        self._batches: deque[BatchCounts] = deque()

    def of_batch(self, rows: int, tokens: int, most: int, seconds: float) -> None:
        """Note a batch."""
        self._batches.append((rows, tokens, most, seconds))

    def taken(self) -> list[BatchCounts]:
        """The batches since the last call."""
        return [self._batches.popleft() for _ in range(len(self._batches))]


class Replica:
    """A process of the cluster: a trunk, and a `Batcher` over all that its server gives it."""

    def __init__(
        self, settings: JobSettings, made_of: str | None, fingerprint: str, limits: Limits, threads: int
    ) -> None:
        """`settings` and `made_of` name the trunk, as for `named_trunk`, which computes in so many `threads`.

        Raises `InputError` where it is not the one of this `fingerprint`.
        """
        torch.set_num_threads(threads)
        self._trunk = named_trunk(settings, made_of)
        if (own := self._trunk.fingerprint()) != fingerprint:
            raise InputError(
                f"{settings.model}: on this machine its weights have the sha256 {own}, and the server's {fingerprint}: "
                "every machine of the cluster needs the same checkpoint, in the same precision"
            )
        self._trunk.prepare()
        self._noted, self._name = _Noted(), uuid4().hex
        # What may wait is bounded where requests come in.
        self._batcher = Batcher(replace(limits, queue_rows=sys.maxsize), self._noted)
        self._sets: OrderedDict[str, Predictor] = OrderedDict()

    def check_health(self) -> None:
        """Raise where the replica has to be started anew; Ray Serve asks."""
        if not self._batcher.alive:
            raise RuntimeError("the thread that runs the trunk has ended")

    async def answer(
        self, key: str, prompts: Sequence[ray.ObjectRef[Prompts]], rows: Sequence[Row], scores: bool
    ) -> tuple[list[Answer], list[BatchCounts], str]:
        """The answers to encoded rows by the set of prompts that is called `key`, the batches since the last ones, and
        the replica's own name.

        `prompts` holds the reference of the set: a list, lest Ray fetches it for every call.
        """
        predictor = await self._predictor(key, prompts[0])
        job = Job([EncodedRow(predictor.ready[task].prompt, ids) for task, ids in rows], predictor, scores)
        self._batcher.submit(job)
        try:
            return await asyncio.wrap_future(job.future), self._noted.taken(), self._name
        except asyncio.CancelledError:
            self._batcher.drop(job)
            raise

    async def _predictor(self, key: str, reference: ray.ObjectRef[Prompts]) -> Predictor:
        if key not in self._sets:
            prompts = await reference
            if key not in self._sets:  # no other job has brought it meanwhile, whose rows share batches with these
                self._sets[key] = Predictor(self._trunk, prompts)
                if len(self._sets) > SETS:
                    self._sets.popitem(last=False)
        self._sets.move_to_end(key)
        return self._sets[key]


class Replicas:
    """Answers the jobs of a server by replicas: what a `Batcher` is to a server with a trunk of its own.

    Every call names the set of prompts that its request was accepted with, and a replica that does not hold that set
    fetches it: so a change of what is served reaches all replicas, those that start later too, with the first request
    after it, and no request is answered by two sets. A job whose replica ends is given to another one, as an answer
    depends on nothing but its rows and prompts; one that cannot be reached is asked again until the job is dropped.
    Everything runs in the server's loop.
    """

    def __init__(self, handle: DeploymentHandle, limits: Limits, metrics: Metrics) -> None:
        """`handle` is that of a deployment of `Replica`."""
        self._handle, self._limits, self._metrics = handle, limits, metrics
        self._tasks: dict[Job, asyncio.Task[list[Answer]]] = {}  # of the jobs that are neither answered nor dropped
        self._rows = 0  # of these jobs
        self._failures = 0  # since the last answer
        self._single = asyncio.Lock()
        self._stopping = False
        self._pace = Pace()  # of one replica
        self._heard: dict[str, float] = {}  # when each replica answered last
        self._sets: WeakKeyDictionary[Predictor, tuple[str, ray.ObjectRef[Prompts]]] = WeakKeyDictionary()

    @property
    def idle(self) -> bool:
        """Whether every job that was accepted is answered or dropped."""
        return not self._tasks

    @property
    def alive(self) -> bool:
        """Whether jobs are answered: Ray starts replicas anew, and where that does not help the server has to be."""
        return self._failures < FAILURES

    @property
    def stopping(self) -> bool:
        """Whether jobs are refused."""
        return self._stopping

    def submit(self, job: Job) -> None:
        """Accept a job: its future will be done. Raises `QueueFull` or `Stopping` where it is not accepted."""
        if self._stopping:
            raise Stopping
        if self._rows + len(job.rows) > self._limits.queue_rows:
            raise self._pace.full(math.ceil(self._rows / self._working()))
        self._count(len(job.rows))
        self._tasks[job] = task = asyncio.get_running_loop().create_task(self._answers(job))
        task.add_done_callback(partial(self._ended, job))

    def drop(self, job: Job) -> None:
        """Cancel a job: nobody asks for it any more."""
        job.future.cancel()
        if job in self._tasks:
            self._tasks[job].cancel()

    def refuse(self) -> None:
        """Accept nothing from now on."""
        self._stopping = True

    def close(self) -> None:
        """Refuse; what is held is answered by then, or the loop that would answer it has ended."""
        self.refuse()

    def _working(self) -> int:
        """Replicas that share what waits."""
        least = time.monotonic() - HEARD
        self._heard = {name: at for name, at in self._heard.items() if at > least}
        return max(1, len(self._heard))

    def _count(self, rows: int) -> None:
        self._rows += rows
        self._metrics.queue_rows.set(self._rows)

    def _ended(self, job: Job, task: asyncio.Task[list[Answer]]) -> None:
        """Hand over what a job came to."""
        del self._tasks[job]
        self._count(-len(job.rows))
        with suppress(InvalidStateError):  # it was dropped
            if task.cancelled():
                job.future.cancel()
            elif error := task.exception():
                self._failures += 1
                logger.error("a job of %d rows failed", len(job.rows), exc_info=error)
                job.future.set_exception(error)
            else:
                self._failures = 0
                job.future.set_result(task.result())

    async def _answers(self, job: Job) -> list[Answer]:
        """What a replica answers: the first that lives until it has."""
        ended = 0  # replicas, while they held this job
        while True:
            try:
                async with self._single if ended >= TOGETHER else nullcontext():
                    return await self._asked(job)
            except ActorUnavailableError:  # it lives, and may hold what it was given
                await asyncio.sleep(PAUSE)
            except gone() as error:
                ended += 1
                if ended == TRIES:
                    raise
                name, rows = type(error).__name__, len(job.rows)
                logger.warning("a replica ended (%s) with %d rows, which another one answers", name, rows)
                await asyncio.sleep(PAUSE)
            except RayServeException as error:
                raise Unavailable from error
            except RayTaskError as error:  # also an instance of what was raised there, which is no fault of the request
                raise RuntimeError("a replica failed") from error

    async def _asked(self, job: Job) -> list[Answer]:
        """What one replica answers."""
        key, reference = self._set(job.predictor)
        rows: list[Row] = [(row.prompt.task.name, row.input_ids) for row in job.rows]
        response = self._handle.answer.remote(key, [reference], rows, job.scores)
        try:
            answers, batches, name = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        self._heard[name] = time.monotonic()
        for counts in batches:
            self._metrics.of_batch(*counts)
            self._pace.of_batch(counts[0], counts[-1])
        return answers

    def _set(self, predictor: Predictor) -> tuple[str, ray.ObjectRef[Prompts]]:
        """The name of a predictor's set of prompts, and where replicas find it as long as the predictor is held."""
        if predictor not in self._sets:
            self._sets[predictor] = uuid4().hex, ray.put(dict(predictor.prompts))
        return self._sets[predictor]
