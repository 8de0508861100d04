"""What a command prints: on an output that may be closed, full, or without letters beyond ASCII."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast


class OutputError(Exception):
    """Standard output cannot be written; `closed`: nobody reads it any more, as behind `| head`."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.closed = isinstance(error, BrokenPipeError)


class _Guarded:
    """A stream whose first failure is an `OutputError`, once, in the main thread; later text is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._failed: OSError | None = None
        self._told = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Any) -> None:
        if self._failed is None:
            try:
                act()
            except OSError as error:
                self._failed = error
                _silence(self._stream)
        if self._failed and not self._told and threading.current_thread() is threading.main_thread():
            self._told = True
            raise OutputError(self._failed)


@contextmanager
def guarded() -> Iterator[None]:
    """While entered, standard output fails with `OutputError` alone, and shows `?` for a letter that it has not."""
    before = sys.stdout
    if before is None:  # closed when the process began: no file that is opened later may come by its number
        os.open(os.devnull, os.O_WRONLY)
        yield
        return
    if hasattr(before, "reconfigure"):
        before.reconfigure(errors="replace")
    sys.stdout = cast(TextIO, _Guarded(before))
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout = before


def complain(text: str) -> None:
    """Print a line on standard error, if there still is one."""
    if sys.stderr is None:
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _silence(sys.stderr)


def flush() -> None:
    """Write what was printed; what cannot be written is dropped, so that Python says nothing of it at the exit."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _silence(sys.stdout)


def _silence(stream: TextIO) -> None:
    """Let what a stream still holds, and what comes, go nowhere."""
    with contextlib.suppress(OSError):  # a stream without a file
        number = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)
