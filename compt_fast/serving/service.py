"""A server's state: what it serves, and the way of a request's rows from texts to answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from starlette.requests import Request

from compt_fast.prediction.predictor import Answer, Predictor
from compt_fast.prediction.prompts import TaskPrompt
from compt_fast.prediction.rows import CheckedRow, EncodedRow, Placed, checked, encoded
from compt_fast.serving.batcher import Answering, Batcher, Job
from compt_fast.serving.limits import Limits
from compt_fast.serving.metrics import Metrics
from compt_fast.serving.schemas import Predict
from compt_fast.serving.served import Served
from compt_fast.utils.errors import InputError


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


Answers = Callable[[Limits, Metrics], Answering]
"""What makes that which answers a server's jobs; it is made once."""


class Service:
    """A server's state, and what its paths do with it."""

    def __init__(self, served: Served, limits: Limits, answers: Answers = Batcher) -> None:
        self.served, self.limits, self.metrics = served, limits, Metrics()
        self.batcher = answers(limits, self.metrics)
        # Texts become tokens in a thread of their own: a long one must not keep the loop from answering others.
        self._reader = ThreadPoolExecutor(1, "reader")

    def close(self) -> None:
        """Answer what is held, and end both threads."""
        self.batcher.close()
        self._reader.shutdown()

    async def predict(self, asked: Predict, request: Request) -> list[Answer]:
        """The answers to a request's rows by the prompts that are served now.

        Raises `InputError` for wrong rows, what `Batcher.submit` raises, `TimeoutError` after `Limits.timeout`, and
        `ClientGone`; rows that no batch has taken by then are forgotten.
        """
        predictor = self.served.predictor
        async with asyncio.timeout(self.limits.timeout):
            reading = partial(self._encoded, asked, predictor)
            rows = await asyncio.get_running_loop().run_in_executor(self._reader, reading)
            job = Job(rows, predictor, asked.scores)
            self.batcher.submit(job)
            answered = asyncio.wrap_future(job.future)
            gone = asyncio.ensure_future(_gone(request))
            either: set[asyncio.Future[Any]] = {answered, gone}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if not answered.done():
                    raise ClientGone
                return answered.result()
            finally:
                gone.cancel()
                if not answered.done():
                    self.batcher.drop(job)

    def _encoded(self, asked: Predict, predictor: Predictor) -> list[EncodedRow]:
        rows = [asked.rows] if isinstance(asked.rows, Mapping) else asked.rows
        if not isinstance(rows, list) or not rows:
            raise InputError("rows is an object from column to text, or a list of one or more of them")
        if len(rows) > self.limits.max_rows:
            raise InputError(f"rows are {len(rows):,}; a request has up to {self.limits.max_rows:,}")
        prompts = predictor.prompts
        placed = [Placed(row, f"row {number}") for number, row in enumerate(rows, start=1)]
        return encoded([self._checked(row, prompts, asked.task) for row in placed], predictor.trunk.tokenizer)

    def _checked(self, placed: Placed, prompts: Mapping[str, TaskPrompt], task: str | None) -> CheckedRow:
        row, where = placed.row, placed.where
        for column, text in row.items() if isinstance(row, Mapping) else ():
            if isinstance(text, str) and len(text) > self.limits.max_text:
                raise InputError(
                    f"{where}: column {column!r} holds {len(text):,} characters, and up to {self.limits.max_text:,} "
                    "are read"
                )
        return checked(placed, prompts, task)


async def _gone(request: Request) -> None:
    """Waits until the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
