"""Locks among processes: a file that the living owner holds, and that names it."""

from __future__ import annotations

import fcntl
import os
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from compt_fast.utils.errors import InputError


@contextmanager
def locked(path: Path, *, wait: bool, busy: str = "") -> Iterator[None]:
    """Hold the lock at `path`, whose folder must be there; a process that dies lets go of it.

    With `wait` until it is free; else `InputError`, in which `busy` follows the name of the process that holds it.
    Raises `OSError` where the file cannot be made, or is a link. Where the file system knows no locks a warning
    says so, and nothing is held.
    """
    handle = _taken(path, wait, busy)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        if _is_at(path, handle):
            os.unlink(path)
        os.close(handle)


@contextmanager
def at_work(folder: Path, alone: Callable[[], None]) -> Iterator[None]:
    """Be one of the processes that work in a folder, which must be there; a process that dies is none any more.

    `alone` is called first where no other is: what is unfinished there then, nobody will finish. Where the file system
    knows no locks nobody is known to be alone.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone()
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock at `path`; where nobody can tell, whether there is one."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held, or a file system that knows no locks
        return True
    finally:
        os.close(handle)
    return False


def _taken(path: Path, wait: bool, busy: str) -> int:
    """An open file that is locked, and is still the one at `path`: its last owner may have removed it meanwhile."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            owner = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise InputError(f"{path.parent}: {owner} is at work on it; {busy}") from None
        except OSError as error:
            warnings.warn(
                f"{path} cannot be locked ({error.strerror}): see to it that no other process works on the same folder",
                RuntimeWarning,
                stacklevel=4,
            )
        except BaseException:
            os.close(handle)
            raise
        if _is_at(path, handle):
            return handle
        os.close(handle)


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(handle))
    except FileNotFoundError:
        return False
