"""Compile `csrc/` for the torch of this interpreter: `python build.py SOURCES OUT`.

Run as a program of its own, at installation and at first use, so that nothing of it stays in the
process that asked. It imports nothing of compt_fast: at installation there is no such package yet.

OUT then holds `ops.so` and, written last, `ops.json`, which says what the library was built for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LIBRARY = "ops.so"
FACTS = "ops.json"

WITHOUT_A_GPU = "7.5;8.0;9.0+PTX"
"""What CUDA code is compiled for where no GPU says for itself; newer ones compile the last one's PTX as they load."""

GIB_A_JOB = 2
"""Memory in GiB that compiling one file against torch's headers may take."""

CPU_FLAGS = re.compile(r"sse|ssse|avx|fma|f16c|bmi|abm|popcnt|movbe|amx|asimd|sve|bf16|i8mm")
"""The processor flags that a compiler makes use of by itself; others differ without meaning."""


def cpu_flags() -> list[str]:
    """The instruction sets of this processor, sorted; empty where /proc/cpuinfo does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return sorted({flag for flag in line.group(1).split() if CPU_FLAGS.match(flag)}) if line else []


def sources_hash(sources: Path) -> str:
    """SHA-256 of the names and contents of all files in `sources`, and of this file, which holds
    the compiler's flags.
    """
    digest = hashlib.sha256()
    for path in [*sorted(sources.iterdir()), Path(__file__)]:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def cuda_home() -> Path | None:
    """The CUDA toolkit that nvcc and the headers are taken from; None where there is none."""
    nvcc = shutil.which("nvcc")
    named = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"))
    beside = nvcc and str(Path(nvcc).resolve().parent.parent)
    for home in (*named, beside, "/usr/local/cuda"):
        if home and Path(home, "bin", "nvcc").is_file() and Path(home, "include", "cuda_runtime.h").is_file():
            return Path(home)
    return None


def cuda_to_build_for() -> str | None:
    """torch's CUDA version, where nvcc is of the same major version; else None."""
    import torch

    home = cuda_home() if torch.version.cuda else None
    if home is None:
        return None
    said = subprocess.run([home / "bin" / "nvcc", "--version"], capture_output=True, text=True, check=False)
    release = re.search(r"release (\d+)", said.stdout)
    same = release is not None and release.group(1) == str(torch.version.cuda).split(".")[0]
    return torch.version.cuda if same else None


def facts(sources: Path) -> dict[str, Any]:
    """What a library built here and now would be built for, JSON-ready."""
    import torch

    return {
        "torch": torch.__version__,
        "cxx11_abi": torch.compiled_with_cxx11_abi(),
        "cuda": cuda_to_build_for(),
        "sources": sources_hash(sources),
        "cpu": cpu_flags(),
        "debug": os.environ.get("DEBUG") == "1",
    }


def tool_path() -> str:
    """$PATH, with the folders behind it where pip puts a `ninja`."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])


def missing_tool() -> str | None:
    """What building needs and this machine lacks; None where all is here."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler ({compiler})"
    if shutil.which("ninja", path=tool_path()) is None:
        return "there is no ninja (pip install ninja)"
    if importlib.util.find_spec("setuptools") is None:
        return "there is no setuptools, which torch's build of extensions needs"
    return None


MEMINFO = Path("/proc/meminfo")


def jobs() -> int:
    """Compilers to run side by side: no more than cores, nor than memory allows, where the system tells."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        # Free pages alone would be few on any machine that has read files for a while.
        available = re.search(r"^MemAvailable:\s+(\d+) kB", MEMINFO.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        available = None
    return max(1, min(cores, int(available[1]) // 2**20 // GIB_A_JOB)) if available else cores


def compile_into(folder: Path, sources: Path, cuda: str | None, flags: tuple[str, ...] = ()) -> None:
    """Compile `sources` in the existing, empty `folder`, and load the library once to try it.

    `flags` go to compiler and linker, behind the others. Raises RuntimeError with the compiler's
    output.
    """
    os.environ["PATH"] = tool_path()
    os.environ.setdefault("CXX", "c++")
    os.environ.setdefault("MAX_JOBS", str(jobs()))
    if home := cuda_home():
        os.environ["CUDA_HOME"] = str(home)
    import torch
    from torch.utils import cpp_extension

    if cuda is not None and not torch.cuda.is_available():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", WITHOUT_A_GPU)
    debug = os.environ.get("DEBUG") == "1"
    kernels = ["-O0", "-g"] if debug else ["-O3"]
    # torch brings its own OpenMP: linking another would give two pools of threads.
    own = [*kernels, "-std=c++20", "-march=native", "-fopenmp", "-Wall", "-Wextra", "-Wno-unknown-pragmas", *flags]
    files = [path for path in sources.iterdir() if path.suffix in (".cpp", ".cu")]
    if cuda is None:
        files = [path for path in files if not path.stem.endswith("_cuda")]
    cpp_extension.load(
        name=Path(LIBRARY).stem,
        sources=sorted(map(str, files)),
        extra_cflags=own,
        extra_cuda_cflags=kernels,
        extra_ldflags=["-Wl,--as-needed", *flags],
        build_directory=str(folder),
        with_cuda=cuda is not None,
        is_python_module=False,
    )


def cache_folder(wanted: dict[str, Any]) -> Path:
    """Where the library for the facts `wanted` is kept for this user, there or not."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
    return root / "compt_fast" / "native" / key[:20]


def planted(folder: Path) -> str | None:
    """Why a library in the cache's `folder` may be another user's, whose code it would run; None where it is ours.

    Folders from `compt_fast` down, and the files in it, must belong to this user (or to root), be writable by nobody
    else, and be no links.
    """
    root = next(parent for parent in folder.parents if parent.name == "compt_fast")
    folders = [root, *(parent for parent in folder.parents if root in parent.parents), folder]
    for path in [*folders, *(folder / name for name in (FACTS, LIBRARY))]:
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISLNK(found.st_mode):
            return f"{path} is a link; remove it"
        if found.st_uid not in (os.geteuid(), 0):
            return f"{path} belongs to another user ({found.st_uid}); remove it, or set XDG_CACHE_HOME to one of yours"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return f"others can write to {path}; remove {root}, and it is built again"
    return None


def built_for(folder: Path) -> Any:
    """What the library in `folder` was built for; None where there is no whole one."""
    if not (folder / LIBRARY).is_file():
        return None
    try:
        return json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def build(sources: Path, out: Path) -> None:
    """Place library and facts of `sources` in `out`, each whole or not at all: what is there, beside this file or in
    the user's cache and was built for the same, or what is compiled now.
    """
    wanted = facts(sources)
    kept = cache_folder(wanted)
    there = (out, Path(__file__).parent, *([] if planted(kept) else [kept]))
    found = next((folder.resolve() for folder in there if built_for(folder) == wanted), None)
    if found == out.resolve():
        return
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".build-") as scratch:
        if found is None:
            compile_into(Path(scratch), sources, wanted["cuda"])
        else:
            shutil.copy2(found / LIBRARY, scratch)
        described = Path(scratch, FACTS)
        described.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
        for made in (Path(scratch, LIBRARY), described):
            made.chmod(0o755)  # whatever the umask: what others can write to is not loaded
        (out / FACTS).unlink(missing_ok=True)  # never the old facts beside the new library
        os.replace(Path(scratch, LIBRARY), out / LIBRARY)
        os.replace(described, out / FACTS)


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
