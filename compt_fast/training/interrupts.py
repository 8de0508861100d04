"""Ctrl-C, SIGTERM and a closed terminal (SIGHUP) end a job at the next safe point, where it can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A signal asked the job to end; `signal` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Interrupts:
    """While entered, notes `SIGNALS`; a second one of the same kind acts as usual.

    A SIGHUP that was ignored before, as under `nohup`, stays so. In another thread than the main one, which is the
    only one that signals reach, it notes nothing.
    """

    def __init__(self) -> None:
        self._pending: int | None = None
        self._previous: dict[int, signal.Handlers | None] = {}

    def __enter__(self) -> Self:
        heard = threading.current_thread() is threading.main_thread()
        for number in SIGNALS if heard else ():
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._pending = number
        signal.signal(number, self._previous[number])

    def ask(self, number: int) -> None:
        """Act as if that signal had come."""
        self._pending = number

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come since the block was entered."""
        if self._pending is not None:
            raise Interrupted(self._pending)


@contextmanager
def raised_at_once() -> Iterator[None]:
    """While entered, the first of `SIGNALS` raises `Interrupted` wherever it finds the main thread: for work of which a
    crash loses nothing that is on the disk.
    """
    heard = threading.current_thread() is threading.main_thread()
    previous = {number: signal.getsignal(number) for number in SIGNALS if heard}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def stop(number: int, frame: FrameType | None) -> None:
        restore()
        raise Interrupted(number)

    for number, handler in previous.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        restore()
