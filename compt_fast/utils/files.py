"""Atomic writes: a file or folder is there whole, or not at all, and what it replaces is there until then.

What is being written has a dot before its name and eight digits behind it. A process that dies leaves it, and
`clean` removes it. Folders are of files alone, but for those of `new_tree`: nothing else here ever goes down a tree to
remove it, and nothing follows a link.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_UNFINISHED = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}(?P<old>\.old)?")
_HERE = -100  # Linux' AT_FDCWD
_SWAP = 2  # its RENAME_EXCHANGE, and RENAME_SWAP of macOS


def write_text(path: Path, text: str) -> None:
    """Write `path` so that a reader, or a crash, never sees half of it."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused (`ValueError`)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A path to write, which takes the place of `path` when the block ends without an error."""
    temporary = _unfinished(path)
    try:
        yield temporary
        put(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def put(whole: Path, path: Path) -> None:
    """Let the file `whole` take the place of `path`, in one step that a crash does not undo; both in one folder."""
    sync(whole)
    os.replace(whole, path)
    sync(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill with files, which takes the place of `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _unfinished(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        _replace_folder(temporary, path)
        sync(path.parent)
    finally:
        remove_folder(temporary)


@contextmanager
def new_tree(path: Path) -> Iterator[Path]:
    """As `new_folder`, of a folder that may also be filled with folders of files.

    What stands at `path` goes with the files of its folders: whoever calls this has seen that nothing else is in them.
    """
    began: list[Path] = []
    try:
        with new_folder(path) as temporary:
            began.append(temporary)
            yield temporary
            for part in _folders(temporary):
                for file in part.iterdir():
                    sync(file)
                sync(part)
    finally:
        for left in began:
            _remove_tree(left)


def _remove_tree(path: Path) -> None:
    """Remove what `new_tree` makes."""
    for part in _folders(path):
        remove_folder(part)
    remove_folder(path)


def _folders(path: Path) -> list[Path]:
    """The folders in a folder, which need not be there; no links."""
    if path.is_symlink() or not path.is_dir():
        return []
    return [part for part in path.iterdir() if part.is_dir() and not part.is_symlink()]


def unfinished(path: Path) -> str | None:
    """The name that something was being written under here, by a process that may have died; None for all else."""
    found = _UNFINISHED.fullmatch(path.name)
    return found["name"] if found else None


def clean(folder: Path, ours: Callable[[str], bool], *, trees: bool = False) -> None:
    """Remove what processes that died left unfinished in `folder`, of the names that are `ours`, `trees` among it.

    Nobody else may be writing there. What had been put aside and not yet replaced comes back.
    """
    if not folder.is_dir() or folder.is_symlink():
        return
    for path in sorted(folder.iterdir()):
        found = _UNFINISHED.fullmatch(path.name)
        if found is None or not ours(found["name"]):
            continue
        if found["old"] and not os.path.lexists(folder / found["name"]):
            os.rename(path, folder / found["name"])
        else:
            (_remove_tree if trees else remove_folder)(path)


def remove_folder(path: Path) -> None:
    """Remove a folder of files, or a file or link. A folder within it, which is none of ours, stays, and so does
    `path` then; nothing happens where nothing is there.
    """
    try:
        kind = os.lstat(path).st_mode
        if not stat.S_ISDIR(kind):
            os.unlink(path)
            return
        # Through a handle: what takes the place of the path meanwhile is not touched.
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        with os.scandir(handle) as entries:
            files = [entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)]
        for name in files:
            os.unlink(name, dir_fd=handle)
    finally:
        os.close(handle)
    with contextlib.suppress(OSError):
        os.rmdir(path)


def check_length(path: Path) -> None:
    """Raise `OSError` where the file system takes no path, or no name, as long as this one with what is put to it
    while it is written; the folder that it stands in must be there.
    """
    with contextlib.suppress(FileNotFoundError):
        os.lstat(f"{_unfinished(path)}.old")


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")


def sync(path: Path) -> None:
    """Have a file's content, or a folder's list of names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that sync no folder
            raise
    finally:
        os.close(handle)


def _replace_folder(new: Path, path: Path) -> None:
    """Put `new` at `path`; what stood there goes to `new`'s place."""
    if not os.path.lexists(path):
        os.rename(new, path)
        return
    try:
        exchange(new, path)
    except OSError:  # a file system that cannot: the old one is put aside, where `clean` finds it
        aside = Path(f"{new}.old")
        os.rename(path, aside)
        os.rename(new, path)
        os.rename(aside, new)


def exchange(one: Path, other: Path) -> None:
    """Let two names change places in one step; `OSError` where the system or the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(one), os.fsencode(other)
    if hasattr(libc, "renameat2"):
        failed = libc.renameat2(_HERE, paths[0], _HERE, paths[1], _SWAP)
    elif hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(*paths, _SWAP)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one), None, str(other))
