"""Errors that are the user's to mend: every command prints them as one line and exits with 2."""

from __future__ import annotations

import difflib
import signal
import sys
from collections.abc import Callable, Iterable

from compt_fast.utils.output import OutputError, complain, guarded

FIRST_SIGNAL = 128  # a command that signal N ended exits with 128 + N
_COMPARED = 100  # characters of a word that is sought among known ones, which takes their number squared


class InputError(ValueError):
    """Something given by the user is wrong; the message names it and says what would be right."""


def shown(value: object, most: int = 100) -> str:
    """`value` as a message quotes it: its `repr`, its middle left out where it is long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 4 :]} ({len(text):,} characters)"


def unknown(kind: str, value: str, choices: Iterable[str]) -> InputError:
    """An `InputError` for a `value` that is none of `choices`, naming the nearest one.

    `kind` says what the value should have been, in words that fit before the value ("task").
    """
    known = list(choices)
    near = difflib.get_close_matches(value[:_COMPARED], known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return InputError(f"unknown {kind} {shown(value)}.{hint} Known: {', '.join(known)}.")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch or Python means that memory ran out."""
    import torch  # late: what needs no torch is to start at once

    # The CPU allocator has no exception of its own.
    named = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return named or "can't allocate memory" in str(error)


def exit_code(work: Callable[[], int], *, out_of_memory_hint: str = "") -> int:
    """What a command exits with: the result of `work`, or what its error means to the user.

    `InputError`, running out of memory and an `OSError` that names its file become one line and 2, Ctrl-C 130, an
    output that nobody reads any more 141 and one that cannot be written 2, a package that is missing 2; any other error
    is a bug and passes.
    `out_of_memory_hint` says what the user can do about memory.
    """
    try:
        with guarded():
            return work()
    except OutputError as error:
        if error.closed:
            return FIRST_SIGNAL + signal.SIGPIPE
        complain(f"error: standard output cannot be written ({error})")
        return 2
    except InputError as error:
        complain(f"error: {error}")
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        complain(f"error: {error.filename}: {error.strerror}")  # a disk, or rights, that no check foresaw
        return 2
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        complain(f"error: out of memory{out_of_memory_hint}")
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("compt_fast", ""):  # a bug of ours
            raise
        complain(
            f"error: {error.name} is not installed for {sys.executable}: activate the environment that compt_fast was "
            "installed in (source .venv/bin/activate after `make`), or install what is missing"
        )
        return 2
    except KeyboardInterrupt:
        return FIRST_SIGNAL + signal.SIGINT
