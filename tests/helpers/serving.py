"""Servers of the embedded suite's prompts, rows to ask them, and what their answers should be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import torch

from compt_fast.config.job import JobSettings
from compt_fast.models.api import Trunk
from compt_fast.prediction.predictor import Answer, Predictor
from compt_fast.prediction.prompts import USUAL_TEXT
from compt_fast.prediction.rows import EncodedRow
from compt_fast.prompts.artifact import About, RunPrompts, TrunkId, save_prompts
from compt_fast.prompts.shape import PromptShape
from compt_fast.runs.job import named_trunk
from compt_fast.serving.app import make_app
from compt_fast.serving.gate import Access
from compt_fast.serving.limits import Limits
from compt_fast.serving.served import Served
from compt_fast.serving.server import Server, bound, url_of
from compt_fast.serving.service import Service
from compt_fast.tasks.table import MAKERS, SUITES, TASKS

ADMIN = "an-admin-token-of-tests"
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}"}
# A connection a request, and no certificates, which take long to read.
ASK = httpx.Client(verify=False, timeout=60, limits=httpx.Limits(max_keepalive_connections=0))
LENGTH = 5  # tokens of a prompt


def make_prompts(
    folder: Path,
    names: Sequence[str] = SUITES["mini"],
    *,
    seed: int = 0,
    trunk: Trunk | None = None,
    length: int = LENGTH,
) -> Path:
    """An artifact of a run that nobody trained: its prompts are tokens of the trunk, which is the embedded one."""
    trunk = trunk or mini_trunk()
    places = torch.randint(len(trunk.embedding), (len(names), length), generator=torch.Generator().manual_seed(seed))
    about = About(
        "run",
        folder.name,
        tuple(names),
        TrunkId(trunk.name, trunk.fingerprint(), "fp32"),
        USUAL_TEXT,
        {name: TASKS[name] for name in names},
    )
    shape = PromptShape("pt", len(names), 0, True, length, trunk.d_model)
    save_prompts(folder, RunPrompts(shape, {"targets": trunk.embedding[places].float()}), about)
    return folder


@cache
def mini_trunk() -> Trunk:
    """The embedded trunk."""
    return named_trunk(JobSettings(dtype="fp32", device="cpu"))


def mixed_rows(each: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of all embedded tasks, which take turns."""
    drawn = [MAKERS[task].draw(task, "validation", each, seed) for task in SUITES["mini"]]
    return [
        {"task": task} | {key: text for key, text in row.items() if key != "label"}
        for rows in zip(*drawn, strict=True)
        for task, row in zip(SUITES["mini"], rows, strict=True)
    ]


class Held(Predictor):
    """A predictor that answers a batch only once it is let go, and notes what the batches were."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__(predictor.trunk, predictor.prompts)
        self.go = threading.Event()
        self.batches: list[list[EncodedRow]] = []

    def answer(self, rows: Any, *, scores: bool = False) -> list[Answer]:
        """As the class above, later."""
        self.batches.append(list(rows))
        assert self.go.wait(60)
        return super().answer(rows, scores=scores)


@dataclass
class Running:
    """A server that runs in a thread of this process."""

    url: str
    service: Service
    server: Server
    thread: threading.Thread

    def post(self, body: Any, **more: Any) -> httpx.Response:
        """Ask for predictions."""
        return ASK.post(f"{self.url}/v1/predict", json=body, **more)

    def later(self, body: Any) -> Callable[[], httpx.Response]:
        """Ask in another thread; what waits for the answer."""
        found: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: found.append(self.post(body)))
        asking.start()

        def answer() -> httpx.Response:
            asking.join(60)
            return found[0]

        return answer


@contextmanager
def running(
    predictor: Predictor, limits: Limits | None = None, access: Access | None = None, root: Path | None = None
) -> Iterator[Running]:
    """A server on a free port; it is stopped as by a signal."""
    app = make_app(Served(predictor, root), limits or Limits(), access or Access(admin=ADMIN))
    listening = bound("127.0.0.1", 0)
    server = Server(app)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    until(lambda: server.started)
    try:
        yield Running(url_of(listening), app.state.service, server, thread)
    finally:
        server.handle_exit(15, None)
        thread.join(60)
        assert not thread.is_alive()


def until(true: Callable[[], object], seconds: float = 30) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)
