"""What stands in a batch, when it begins, and that every job that is accepted ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from compt_fast.serving.batcher import Batcher, Job, QueueFull, Stopping
from compt_fast.serving.limits import Limits
from compt_fast.serving.metrics import Metrics
from tests.helpers.serving import until

PROMPT = 5  # tokens


def row(tokens: int, name: str = "") -> Any:
    """A row that takes `tokens` of a batch."""
    prompt = SimpleNamespace(prompts=SimpleNamespace(shape=SimpleNamespace(target_length=PROMPT)))
    return SimpleNamespace(prompt=prompt, input_ids=[0] * (tokens - PROMPT), name=name)


class Echo:
    """Answers rows by their names, batch by batch, while it may."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go = threading.Event()
        self.go.set()

    def answer(self, rows: Sequence[Any], *, scores: bool) -> list[str]:
        """The rows' names."""
        self.batches.append([own.name for own in rows])
        assert self.go.wait(10)
        if any(own.name == "bad" for own in rows):
            raise RuntimeError("a bad row")
        return [own.name for own in rows]

    def job(self, names: str, tokens: int = 10, scores: bool = False) -> Job:
        """A job of rows with these names."""
        return Job([row(tokens, name) for name in names.split()], self, scores)  # type: ignore[arg-type]


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.go.set()


def batcher(**limits: Any) -> Batcher:
    return Batcher(Limits(**({"max_wait_ms": 0.0, "batch_tokens": 40} | limits)), Metrics())


def held(echo: Echo, **limits: Any) -> tuple[Batcher, Job]:
    """A batcher whose thread is busy with the row "first" until `echo` may go on."""
    made, first = batcher(**limits), echo.job("first")
    echo.go.clear()
    made.submit(first)
    until(lambda: echo.batches)
    return made, first


def test_jobs_share_batches_up_to_the_tokens_and_a_long_one_lets_others_pass(echo: Echo) -> None:
    made, first = held(echo)
    jobs = [echo.job(names) for names in ("a b", "c", "d e f g h", "i")]
    for job in jobs:
        made.submit(job)
    echo.go.set()
    assert [job.future.result(10) for job in jobs] == [["a", "b"], ["c"], ["d", "e", "f", "g", "h"], ["i"]]
    assert echo.batches == [["first"], ["a", "b", "c", "d"], ["i", "e", "f", "g"], ["h"]]
    made.close()
    assert first.future.result(0) == ["first"] and made.idle


def test_a_row_that_is_longer_than_a_batch_goes_alone(echo: Echo) -> None:
    made, _ = held(echo)
    for names, tokens in (("a", 10), ("long", 100), ("b", 10)):
        made.submit(echo.job(names, tokens))
    echo.go.set()
    made.close()
    assert echo.batches == [["first"], ["a"], ["long"], ["b"]]


def test_rows_with_and_without_scores_or_of_other_prompts_stand_apart(echo: Echo) -> None:
    made, _ = held(echo)
    other = Echo()
    for job in (echo.job("a"), echo.job("b", scores=True), other.job("c"), echo.job("d"), echo.job("e", scores=True)):
        made.submit(job)
    echo.go.set()
    made.close()
    assert echo.batches == [["first"], ["a", "d"], ["b", "e"]] and other.batches == [["c"]]


def test_the_first_row_waits_for_others_as_long_as_it_may(echo: Echo) -> None:
    made = batcher(max_wait_ms=300.0)
    began = time.monotonic()
    jobs = [echo.job("a"), echo.job("b")]
    for job in jobs:
        made.submit(job)
    assert [job.future.result(10) for job in jobs] == [["a"], ["b"]]
    assert time.monotonic() - began >= 0.3 and echo.batches == [["a", "b"]]
    made.close()


@pytest.mark.parametrize("clients", [2, 4])
def test_clients_who_ask_again_at_once_come_to_share_their_batches(clients: int, monkeypatch: Any) -> None:
    """However they fell apart at first."""
    monkeypatch.setattr("compt_fast.serving.batcher.AGAIN", 3.0)
    echo, made = Echo(), batcher(max_wait_ms=0.0, batch_tokens=1000)

    def slow(rows: Sequence[Any], *, scores: bool) -> list[str]:
        echo.batches.append([own.name for own in rows])
        time.sleep(0.02)
        return [own.name for own in rows]

    monkeypatch.setattr(echo, "answer", slow)

    def ask(name: str) -> None:
        for _ in range(6):
            job = echo.job(name)
            made.submit(job)
            job.future.result(10)

    threads = [threading.Thread(target=ask, args=(f"client{i}",)) for i in range(clients)]
    for thread in threads:
        thread.start()
        time.sleep(0.005)  # so that the first batch has one of them
    for thread in threads:
        thread.join()
    made.close()
    assert len(echo.batches[0]) == 1
    assert sum(len(batch) == clients for batch in echo.batches) >= 4, echo.batches


def test_who_does_not_ask_again_is_waited_for_a_moment_only(echo: Echo, monkeypatch: Any) -> None:
    monkeypatch.setattr("compt_fast.serving.batcher.AGAIN", 2.0)
    made, first = held(echo, batch_tokens=1000)
    job = echo.job("a")
    made.submit(job)
    time.sleep(0.1)
    began = time.monotonic()
    echo.go.set()
    assert first.future.result(10) and job.future.result(10)
    assert 0.2 <= time.monotonic() - began < 5.0
    late = echo.job("b")
    time.sleep(0.5)  # by now nobody is expected
    began = time.monotonic()
    made.submit(late)
    assert late.future.result(10) and time.monotonic() - began < 0.2
    made.close()


def test_nobody_is_waited_for_where_many_tokens_wait(echo: Echo, monkeypatch: Any) -> None:
    monkeypatch.setattr("compt_fast.serving.batcher.AGAIN", 100.0)
    made, _ = held(echo)
    job = echo.job("a", tokens=10)  # a quarter of a batch
    made.submit(job)
    time.sleep(0.1)
    echo.go.set()
    assert job.future.result(5) == ["a"]
    made.close()


def test_a_full_batch_does_not_wait(echo: Echo) -> None:
    made = batcher(max_wait_ms=60_000.0)
    job = echo.job("a b c d")
    made.submit(job)
    assert job.future.result(10) == ["a", "b", "c", "d"]
    last = echo.job("e")  # which would wait, were it not for the end
    made.submit(last)
    made.close()
    assert last.future.result(0) == ["e"]


def test_the_queue_is_bounded_and_says_when_to_come_back(echo: Echo) -> None:
    made, _ = held(echo, queue_rows=3, max_rows=3)
    waiting = echo.job("a b")
    made.submit(waiting)
    with pytest.raises(QueueFull) as refused:
        made.submit(echo.job("c d"))
    assert refused.value.seconds >= 1
    made.submit(echo.job("e"))
    echo.go.set()
    assert waiting.future.result(10) == ["a", "b"]
    made.submit(echo.job("c d"))
    made.close()
    assert made.idle


def test_rows_of_a_dropped_job_that_have_not_begun_are_forgotten(echo: Echo) -> None:
    made, first = held(echo, queue_rows=5, max_rows=5)
    dropped, kept = echo.job("a b c d"), echo.job("e")
    made.submit(dropped)
    made.submit(kept)
    made.drop(dropped)
    made.drop(first)  # which has begun: its answer is thrown away
    assert not made.idle
    made.submit(echo.job("f g h"))  # there is room again
    echo.go.set()
    made.close()
    assert echo.batches == [["first"], ["e", "f", "g", "h"]]
    assert dropped.future.cancelled() and first.future.cancelled() and kept.future.result(0) == ["e"] and made.idle


def test_a_batch_that_fails_costs_no_other(echo: Echo, caplog: pytest.LogCaptureFixture) -> None:
    made, _ = held(echo)
    jobs = [echo.job(names) for names in ("bad", "a", "b c d e", "f")]
    for job in jobs:
        made.submit(job)
    echo.go.set()
    for job in jobs[:3]:  # two of them whole, and one that began in that batch
        with pytest.raises(RuntimeError, match="a bad row"):
            job.future.result(10)
    assert jobs[3].future.result(10) == ["f"]
    made.close()
    assert made.idle and "a batch of 4 rows failed" in caplog.text
    assert echo.batches == [["first"], ["bad", "a", "b", "c"], ["f"]]  # no "d e", for which nobody waits


def test_what_is_held_at_the_end_is_answered_and_nothing_new_accepted(echo: Echo) -> None:
    made, first = held(echo)
    waiting = echo.job("a b c d e f g h i")
    made.submit(waiting)
    made.refuse()
    with pytest.raises(Stopping):
        made.submit(echo.job("late"))
    assert made.stopping and made.alive and not made.idle
    echo.go.set()
    made.close()
    assert len(waiting.future.result(0)) == 9 and first.future.result(0) and made.idle and not made.alive


def test_many_threads_lose_and_confuse_nothing(echo: Echo) -> None:
    made, jobs = batcher(batch_tokens=70, max_wait_ms=1.0), []

    def ask(thread: int) -> None:
        for number in range(50):
            job = echo.job(" ".join(f"{thread}.{number}.{k}" for k in range(1 + number % 9)))
            made.submit(job)
            jobs.append(job)

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made.close()
    assert len(jobs) == 300
    assert all(job.future.result(0) == [own.name for own in job.rows] for job in jobs)  # type: ignore[attr-defined]
    assert max(map(len, echo.batches)) == 7  # of ten tokens each
