"""Whose a run folder is: one process at a time works in it, and all that it writes stays in it."""

from __future__ import annotations

import itertools
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from compt_fast.config.job import JobSettings
from compt_fast.utils.errors import InputError
from compt_fast.utils.files import clean, unfinished
from compt_fast.utils.locks import locked
from compt_fast.utils.names import is_name

LOCK = "lock"
WRITTEN = ("config.json", "results.json", "results.md")
STAGES = SOURCES, SHARING = "sources", "shared"
"""What the folders of the jobs before a job begin with, in its own: those that train what its store lacks, and those
that train prompts which source tasks share.
"""
OPENED = ("metrics.jsonl", "prompts", "weights", "checkpoints", "stopped", "requests", "tensorboard", "store")
"""What is opened in a run folder; `WRITTEN` is replaced, so that a link there does no harm."""


@contextmanager
def own_folder(settings: JobSettings) -> Iterator[Path]:
    """The folder that a job's settings name, new, empty, or one of a job to extend, held for this process.

    Without a name it is a new one, whatever else begins in the same second. Raises `InputError` where it cannot be
    made, holds something else, or another process is at work on it.
    """
    folder = named_folder(settings)
    with nullcontext(folder) if settings.out else _made_anew(folder) as own, claimed(own):
        yield own


def named_folder(settings: JobSettings) -> Path:
    """The folder that a job's settings name; `InputError` where something else is in it. Makes none."""
    if not settings.out:
        suite = settings.suite or ("tasks" if settings.tasks or settings.task_file else "mini")
        return Path(f"runs/{suite}-{time.strftime('%Y%m%d-%H%M%S')}")
    folder = Path(settings.out)
    is_there = os.path.exists(folder)  # False for a name that is too long, which `claimed` finds
    if is_there and not folder.is_dir():
        raise InputError(f"--out {folder} is a file; name a folder")
    if is_there and not (folder / "config.json").exists() and any(map(_is_foreign, folder.iterdir())):
        raise InputError(f"--out {folder} holds other files; name a new or an empty folder")
    return folder


def _is_foreign(path: Path) -> bool:
    """Whether a job that died before its `config.json` was there cannot have left this."""
    return path.name != LOCK and (unfinished(path) not in WRITTEN or not path.is_file())


def check_run_folder(folder: Path) -> Path:
    """The `config.json` of a run folder; `InputError` where there is none, which names the one above prompts."""
    path = folder / "config.json"
    if not path.is_file():
        one = folder.resolve()
        inner = one.parent.name == "prompts" and (one / "manifest.json").is_file()
        hint = f"; it holds one run's prompts: name its run folder, {folder.parent.parent} --runs {one.name}"
        raise InputError(f"{folder}: no run folder (it has no config.json){hint if inner else ''}")
    return path


def check_begun(folder: Path) -> None:
    """Raise `InputError` where no job has begun, and say so where one died before its `config.json` was there."""
    if (folder / "config.json").is_file():
        return
    found = list(folder.iterdir()) if folder.is_dir() else []
    unbegun = bool(found) and not any(map(_is_foreign, found))
    hint = f"; a job ended here before it had begun: give its flags again, with --out {shlex.quote(str(folder))}"
    raise InputError(f"--resume {folder}: no run folder (it has no config.json)" + (hint if unbegun else ""))


@contextmanager
def _made_anew(path: Path) -> Iterator[Path]:
    """A folder that no other process has made: `path`, or with a number behind it; gone again where it stays empty."""
    made = [parent for parent in path.parents if not parent.exists()]
    for number in itertools.count(1):
        folder = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(f"{folder}: cannot be made ({error.strerror}); name another --out") from None
    try:
        yield folder
    finally:
        _remove_empty([folder, *made])


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a run folder, with those of its stage one, for this process; made where it is not there, and gone again
    where it stays empty.

    What a process that died left half written is removed. Raises `InputError` where another process holds it,
    where it cannot be written, and where a part of it is a link that leads elsewhere.
    """
    with ExitStack() as held:
        held.callback(_remove_empty, [path for path in (folder, *folder.parents) if not os.path.exists(path)])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder / LOCK, wait=False, busy="wait until it ends, or name another folder"))
            refuse_links(folder)
            clean(folder, WRITTEN.__contains__)
            for part in (*(folder / name for name in ("prompts", "weights", "checkpoints")), *folder.glob("stopped/*")):
                clean(part, is_name)
            for stage in stage_folders(folder):
                held.enter_context(claimed(stage))
        except OSError as error:
            raise InputError(f"--out {folder}: cannot be written ({error.strerror})") from None
        yield


def stage_folders(folder: Path, stages: Sequence[str] = STAGES) -> list[Path]:
    """The folders of the jobs before that of a run folder, or of some `stages`, links among them."""
    return sorted(path for stage in stages for path in folder.glob(f"{stage}-*") if path.is_dir() or path.is_symlink())


def refuse_links(folder: Path) -> None:
    """Raise `InputError` where something in a run folder that is opened for writing is a link."""
    opened = (folder / name for name in OPENED)
    for path in (*opened, *stage_folders(folder), *folder.glob("tensorboard/*"), *folder.glob("stopped/*")):
        if path.is_symlink():
            raise InputError(
                f"{path} is a link: a job writes into its run folder alone; put what it leads to in its place"
                + (", or name it as --store" if path.name == "store" else "")
            )


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, the innermost first, up to the first that holds something."""
    with suppress(OSError):
        for folder in folders:
            os.rmdir(folder)
