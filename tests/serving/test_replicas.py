"""Replicas that end, jobs that are given to others, and sets of prompts that come and go; Ray is a stand-in here."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import CancelledError
from typing import Any

import pytest
import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayTaskError,
)

from compt_fast.config.job import JobSettings
from compt_fast.prediction.predictor import Answer, Predictor
from compt_fast.prediction.rows import EncodedRow, Placed, checked, encoded
from compt_fast.serving.batcher import Job, QueueFull, Stopping, Unavailable
from compt_fast.serving.limits import Limits
from compt_fast.serving.metrics import Metrics
from compt_fast.utils.errors import InputError
from tests.helpers.serving import mini_trunk, mixed_rows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what Ray itself does with pydantic, once, as it is imported
    from ray.serve.exceptions import RayServeException

    from compt_fast.serving import replicas
    from compt_fast.serving.replicas import FAILURES, PAUSE, SETS, TOGETHER, TRIES, Replica, Replicas

SETTINGS = JobSettings(device="cpu", dtype="fp32")
Call = tuple[str, list[Any], list[tuple[str, list[int]]], bool]


class Response:
    """What a call of a handle returns: awaited, it is what the call came to."""

    def __init__(self, run: Coroutine[Any, Any, Any]) -> None:
        self._run, self.cancelled = run, False

    def __await__(self) -> Generator[Any, None, Any]:
        return self._run.__await__()

    def cancel(self) -> None:
        """Note it."""
        self.cancelled = True


class Handle:
    """The handle of a deployment, each call of which does what comes next of `acts`: an error is raised, and else the
    call waits until `go` and is answered by the tasks of its rows.
    """

    def __init__(self, *acts: BaseException | None) -> None:
        self._acts = [*acts]
        self.calls: list[Call] = []
        self.responses: list[Response] = []
        self.go = asyncio.Event()
        self.go.set()
        self.answer, self.name = self, "one"

    def remote(self, *call: Any) -> Response:
        """One call."""
        self.calls.append(call)
        self.responses.append(Response(self._run(self._acts.pop(0) if self._acts else None, call)))
        return self.responses[-1]

    async def _run(self, act: BaseException | None, call: Call) -> tuple[list[str], list[Any], str]:
        await self.go.wait()
        if act is not None:
            raise act
        return [task for task, _ in call[2]], [(len(call[2]), 50, 100, 0.5)], self.name


@pytest.fixture(autouse=True)
def puts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was put into the store of objects, whose references are these objects."""
    found: list[Any] = []
    monkeypatch.setattr(ray, "put", lambda what: found.append(what) or what)
    monkeypatch.setattr(replicas, "PAUSE", PAUSE / 100)
    return found


def made(handle: Handle, **limits: Any) -> tuple[Replicas, Metrics]:
    metrics = Metrics()
    return Replicas(handle, Limits(**limits), metrics), metrics  # type: ignore[arg-type]


def rows_of(predictor: Predictor, count: int) -> list[EncodedRow]:
    rows = mixed_rows(1)[:count]
    return encoded([checked(Placed(row, "row"), predictor.prompts, None) for row in rows], predictor.trunk.tokenizer)


@pytest.fixture
def job(offline: Predictor) -> Callable[..., Job]:
    return lambda count=2, predictor=offline: Job(rows_of(predictor, count), predictor, False)


async def ends(job: Job) -> list[Answer]:
    return await asyncio.wait_for(asyncio.wrap_future(job.future), 10)


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


@pytest.mark.parametrize(
    "error",
    [ActorDiedError(), ObjectLostError("0" * 56, None, ""), OutOfMemoryError("killed"), NodeDiedError("gone")],
)
def test_a_job_whose_replica_ends_is_answered_by_another(error: Exception, job: Callable[..., Job]) -> None:
    async def test() -> None:
        handle = Handle(error, error)
        own, metrics = made(handle)
        asked = job()
        own.submit(asked)
        assert await ends(asked) == ["mini_cola", "mini_mnli"]
        assert len(handle.calls) == 3 and handle.calls[0] == handle.calls[2]
        assert own.idle and b"compt_fast_rows_total 2.0" in metrics.text()

    in_a_loop(test)


def test_a_job_that_ends_every_replica_fails(job: Callable[..., Job]) -> None:
    async def test() -> None:
        handle = Handle(*TRIES * [ActorDiedError()])
        own, _ = made(handle)
        asked = job()
        own.submit(asked)
        with pytest.raises(ActorDiedError):
            await ends(asked)
        assert len(handle.calls) == TRIES and own.idle

    in_a_loop(test)


def test_replicas_that_cannot_be_reached_are_asked_until_the_job_is_dropped(job: Callable[..., Job]) -> None:
    async def test() -> None:
        handle = Handle(*3 * TRIES * [ActorUnavailableError("a pause", b"0" * 16)])
        own, _ = made(handle)
        asked = job()
        own.submit(asked)
        assert len(await ends(asked)) == 2 and len(handle.calls) == 3 * TRIES + 1
        never = Handle(*1000 * [ActorUnavailableError("a pause", b"0" * 16)])
        own, _ = made(never)
        asked = job()
        own.submit(asked)
        await asyncio.sleep(0.01)
        own.drop(asked)
        await asyncio.sleep(0.01)
        assert own.idle and len(never.calls) < 1000

    in_a_loop(test)


class Poisoned(Handle):
    """One replica, which ends with all calls that it holds once it comes to the poisoned one's rows."""

    def __init__(self, poison: list[tuple[str, list[int]]]) -> None:
        super().__init__()
        self._poison, self._held = poison, 0
        self._ended = asyncio.Event()

    async def _run(self, act: BaseException | None, call: Call) -> tuple[list[str], list[Any], str]:
        ended = self._ended
        await asyncio.sleep(0)  # all calls of one moment come together
        if call[2] == self._poison:
            ended.set()
            self._ended = asyncio.Event()
        await asyncio.sleep(0.005)
        return await super()._run(ActorDiedError() if ended.is_set() else None, call)


def test_rows_that_end_every_replica_do_not_fail_those_beside_them(job: Callable[..., Job]) -> None:
    async def test() -> None:
        poison, innocent = job(3), [job(2) for _ in range(6)]
        handle = Poisoned([(row.prompt.task.name, row.input_ids) for row in poison.rows])
        own, _ = made(handle)
        for each in (*innocent[:3], poison, *innocent[3:]):
            own.submit(each)
        assert [len(await ends(each)) for each in innocent] == [2] * 6
        with pytest.raises(ActorDiedError):
            await ends(poison)
        assert TRIES + 6 < len(handle.calls) <= TRIES + 6 * (TOGETHER + 1)

    in_a_loop(test)


def test_what_a_replica_raises_is_no_fault_of_the_request(job: Callable[..., Job]) -> None:
    async def test() -> None:
        wrong = RayTaskError("answer", "a remote traceback", InputError("a folder")).as_instanceof_cause()
        assert isinstance(wrong, InputError)
        own, _ = made(Handle(wrong, RayServeException("it failed to deploy")))
        for kind, error in ((RuntimeError, "a replica failed"), (Unavailable, None)):
            asked = job()
            own.submit(asked)
            with pytest.raises(kind, match=error) as raised:
                await ends(asked)
            assert not isinstance(raised.value, InputError)

    in_a_loop(test)


def test_one_that_only_fails_is_not_alive_until_it_answers(job: Callable[..., Job]) -> None:
    async def test() -> None:
        own, _ = made(Handle(*FAILURES * [RayServeException("it failed to deploy")]))
        for _ in range(FAILURES):
            assert own.alive
            own.submit(asked := job(1))
            with pytest.raises(Unavailable):
                await ends(asked)
        assert not own.alive
        own.submit(asked := job(1))
        await ends(asked)
        assert own.alive

    in_a_loop(test)


def test_replicas_that_answer_share_what_waits(job: Callable[..., Job]) -> None:
    async def test() -> None:
        handle = Handle()
        own, _ = made(handle, queue_rows=40, max_rows=40)
        for name in ("one", "two", "three", "three"):
            handle.name = name
            own.submit(asked := job(8))
            await ends(asked)
        handle.go.clear()
        for _ in range(5):
            own.submit(job(8))
        with pytest.raises(QueueFull) as full:
            own.submit(job(1))
        rows = -(-40 // 3)
        assert full.value.seconds == own._pace.full(rows).seconds < own._pace.full(40).seconds
        handle.go.set()

    in_a_loop(test)


def test_what_is_dropped_is_cancelled_where_it_runs(job: Callable[..., Job]) -> None:
    async def test() -> None:
        handle = Handle()
        handle.go.clear()
        own, _ = made(handle)
        running, fresh = job(), job()
        own.submit(running)
        await asyncio.sleep(0)
        own.submit(fresh)
        own.drop(running)
        own.drop(fresh)  # which has not begun
        for each in (running, fresh):
            with pytest.raises(CancelledError):
                each.future.result(0)
        await asyncio.sleep(0.01)
        assert own.idle and [each.cancelled for each in handle.responses] == [True]

    in_a_loop(test)


def test_a_full_queue_and_an_end_refuse(job: Callable[..., Job]) -> None:
    async def test() -> None:
        handle = Handle()
        handle.go.clear()
        own, metrics = made(handle, queue_rows=3, max_rows=3)
        held = job()
        own.submit(held)
        with pytest.raises(QueueFull) as full:
            own.submit(job())
        assert full.value.seconds == 1 and b"compt_fast_queue_rows 2.0" in metrics.text()
        own.refuse()
        with pytest.raises(Stopping):
            own.submit(job(1))
        assert own.stopping and own.alive and not own.idle
        handle.go.set()
        assert len(await ends(held)) == 2
        own.close()
        assert own.idle and b"compt_fast_queue_rows 0.0" in metrics.text()

    in_a_loop(test)


def test_a_set_of_prompts_is_put_once_and_every_call_names_its_own(
    job: Callable[..., Job], offline: Predictor, puts: list[Any]
) -> None:
    async def test() -> None:
        handle = Handle()
        own, _ = made(handle)
        other = Predictor(offline.trunk, offline.prompts)
        for predictor in (offline, offline, other, offline):
            asked = job(1, predictor)
            own.submit(asked)
            await ends(asked)
        keys = [call[0] for call in handle.calls]
        assert keys[0] == keys[1] == keys[3] != keys[2]
        assert len(puts) == 2 and puts[0] == dict(offline.prompts)

    in_a_loop(test)


class Reference:
    """The reference of an object, which may be fetched more than once."""

    def __init__(self, what: Any) -> None:
        self.what, self.fetched = what, 0

    def __await__(self) -> Generator[Any, None, Any]:
        self.fetched += 1
        yield from asyncio.sleep(0).__await__()
        return self.what


@pytest.fixture(scope="module")
def replica() -> Replica:
    return Replica(SETTINGS, None, mini_trunk().fingerprint(), Limits(max_wait_ms=50), 1)


def test_a_replica_of_another_trunk_is_refused() -> None:
    with pytest.raises(InputError, match="on this machine its weights have the sha256 .*, and the server's 0000"):
        Replica(SETTINGS, None, "0" * 64, Limits(), 1)


def sent(rows: Sequence[EncodedRow]) -> list[tuple[str, list[int]]]:
    return [(row.prompt.task.name, row.input_ids) for row in rows]


def test_a_replica_answers_as_one_does_offline(replica: Replica, offline: Predictor) -> None:
    async def test() -> None:
        rows, prompts = sent(rows_of(offline, 8)), Reference(offline.prompts)
        both = await asyncio.gather(*(replica.answer("a", [prompts], part, False) for part in (rows[:3], rows[3:])))
        assert [answer for answers, *_ in both for answer in answers] == offline.predict(mixed_rows(1))
        batches = [batch for _, own, _ in both for batch in own]
        assert both[0][2] == both[1][2]
        assert [batch[0] for batch in batches] == [8], "rows of both calls share a batch"
        replica.check_health()

    in_a_loop(test)


def test_a_replica_fetches_a_set_once_and_keeps_the_newest(replica: Replica, offline: Predictor) -> None:
    async def test() -> None:
        row = sent(rows_of(offline, 1))
        references = {key: Reference(offline.prompts) for key in [f"set {number}" for number in range(SETS + 1)]}
        for key, reference in references.items():
            for _ in range(2):
                await replica.answer(key, [reference], row, True)
        assert [each.fetched for each in references.values()] == [1] * (SETS + 1)
        await replica.answer("set 0", [references["set 0"]], row, True)
        assert references["set 0"].fetched == 2, "the oldest had to go"

    in_a_loop(test)


def test_a_call_that_is_cancelled_leaves_the_batches(offline: Predictor) -> None:
    async def test() -> None:
        slow = Replica(SETTINGS, None, mini_trunk().fingerprint(), Limits(max_wait_ms=60_000), 1)
        call = asyncio.ensure_future(slow.answer("c", [Reference(offline.prompts)], sent(rows_of(offline, 2)), True))
        while slow._batcher.idle:
            await asyncio.sleep(0.001)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert slow._batcher.idle
        slow._batcher.close()
        with pytest.raises(RuntimeError, match="the thread that runs the trunk has ended"):
            slow.check_health()

    in_a_loop(test)
