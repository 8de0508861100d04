"""Find the compiled operators, build them at first use, load them, and say why not.

Looked for beside this file, where an installation puts them, then in the user's cache; else they
are built into that cache, which takes about a minute, once for each torch, processor and version of
the sources. COMPT_FAST_NATIVE=0 turns all of it off; DEBUG=1 builds without optimisation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from compt_fast.native import build
from compt_fast.utils.locks import locked

HERE = Path(__file__).resolve().parent
SHOWN_OF_A_FAILURE = 2000
"""Characters of a compiler's output that a warning repeats; the file that it names holds all."""


@dataclass(frozen=True)
class Status:
    """Whether the compiled operators are loaded, and what they are or why not; the library's file.

    `pending`: nothing is known to stand in their way, and the first use builds them.
    """

    active: bool
    why: str
    path: Path | None = None
    pending: bool = False


TURNED_OFF = Status(False, "turned off by COMPT_FAST_NATIVE=0")

_decided: Status | None = None
_deciding = threading.Lock()
_quiet = False


def load() -> bool:
    """Whether the compiled operators can be called; the first call loads them, or builds them.

    Where that fails one warning says why, and later calls return False at once.
    """
    return _decide(may_build=True).active


@lru_cache
def has_cuda() -> bool:
    """Whether the library that `load` loaded was built with its CUDA half, which takes an nvcc."""
    return torch._C._dispatch_has_kernel_for_dispatch_key("compt_fast::assemble", "CUDA")


def status() -> Status:
    """What `load` came to; before it was called, what it would find. Builds nothing."""
    return _decide(may_build=False)


def keep_quiet(quiet: bool = True) -> None:
    """Whether `load` is to give no warning, because its caller tells the user what `status` comes to."""
    global _quiet
    _quiet = quiet


def _decide(may_build: bool) -> Status:
    global _decided
    with _deciding:
        if _decided is not None:
            return _decided
        found = _find(may_build)
        if found.active or may_build:
            _decided = found
        if may_build and not found.active and found != TURNED_OFF and not _quiet:
            warnings.warn(
                f"The compiled operators of compt_fast are not used, and plain PyTorch is slower: {found.why}."
                " COMPT_FAST_NATIVE=0 silences this.",
                RuntimeWarning,
                stacklevel=3,
            )
        return found


def sources() -> Path:
    """The folder csrc/: in the package when it is installed, beside it in the repository."""
    installed = HERE.parent / "csrc"
    return installed if installed.is_dir() else HERE.parent.parent / "csrc"


def misfit(folder: Path, wanted: dict[str, Any]) -> str | None:
    """Why the library in `folder` cannot be used where `wanted` is; None when it can."""
    built = build.built_for(folder)
    if not isinstance(built, dict) or set(built) != set(wanted):
        return "there is no whole library"
    for name in ("torch", "cxx11_abi", "sources", "debug"):
        if built[name] != wanted[name]:
            return f"it was built for {name} {built[name]}, and this is {wanted[name]}"
    if lacking := set(built["cpu"]) - set(wanted["cpu"]):
        return f"it uses instructions that this processor lacks: {', '.join(sorted(lacking))}"
    if built["cuda"] is None and wanted["cuda"] is not None:
        return f"it was built without CUDA, and nvcc for {wanted['cuda']} is here"
    return None


def _make_private(folder: Path) -> None:
    """Make a folder of the cache, closed to others, with those above it."""
    for path in (*reversed(folder.parents), folder):
        if not path.exists():
            path.mkdir(mode=0o700, exist_ok=True)


def _find(may_build: bool) -> Status:
    if os.environ.get("COMPT_FAST_NATIVE") == "0":
        return TURNED_OFF
    if _already_here():
        return Status(True, "loaded in this process by other means")
    wanted = build.facts(sources())
    if misfit(HERE, wanted) is None:
        return _load_from(HERE)
    kept = build.cache_folder(wanted)
    if danger := build.planted(kept):
        return Status(False, f"the cache is not used: {danger}")
    if misfit(kept, wanted) is None:
        return _load_from(kept)
    if missing := build.missing_tool():
        return Status(False, f"not built, and {missing}")
    if not may_build:
        return Status(False, "not built yet: the first use builds it, in about a minute", pending=True)
    try:
        _make_private(kept)
        with locked(kept / "lock", wait=True):
            return _build_in(kept, wanted)
    except OSError as error:
        return Status(False, f"the cache cannot be written: {error}")


def _already_here() -> bool:
    """Whether somebody loaded the operators in this process: a second time would end it."""
    return hasattr(torch.ops.compt_fast, "assemble")


def _build_in(folder: Path, wanted: dict[str, Any]) -> Status:
    if misfit(folder, wanted) is None:  # another process was quicker
        return _load_from(folder)
    print("compt_fast: building the C++ extension, once, in about a minute ...", file=sys.stderr, flush=True)
    log = folder / "build.log"
    # -P: the script's folder is no place to import from.
    command = [sys.executable, "-P", build.__file__, str(sources()), str(folder)]
    with log.open("wb") as out:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        said = log.read_text(encoding="utf-8", errors="replace").strip()
        return Status(False, f"building failed, see {log}:\n{said[-SHOWN_OF_A_FAILURE:]}\n")
    return _load_from(folder)


def _load_from(folder: Path) -> Status:
    library = folder / build.LIBRARY
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return Status(False, f"{library} does not load: {error}")
    built = json.loads((folder / build.FACTS).read_text(encoding="utf-8"))
    devices = "CPU only" if built["cuda"] is None else f"CPU and CUDA {built['cuda']}"
    return Status(True, f"{library}, for torch {built['torch']}, {devices}", library)
