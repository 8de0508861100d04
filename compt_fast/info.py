"""`python -m compt_fast.info`: versions, device, engines, and what is missing and its cost."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import compt_fast
from compt_fast.commandline import CommandLine
from compt_fast.errors import exit_code

if TYPE_CHECKING:
    from compt_fast.native import Status

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "sentencepiece",
    "safetensors",
    "numpy",
    "scipy",
    "scikit-learn",
    "datasets",
    "pyarrow",
    "triton",
    "tensorboard",
    "matplotlib",
    "jinja2",
)
BF16_FLAGS = ("amx_bf16", "avx512_bf16", "avx_ne_convert", "bf16")
"""The processor flags, best first, that mean bf16 arithmetic in hardware (x86-64, then Arm)."""

GIB = 2**30


@dataclass(frozen=True)
class Part:
    """An engine or a native part: whether it runs, and why or why not."""

    name: str
    active: bool
    why: str


@dataclass(frozen=True)
class Missing:
    """Something this machine lacks. `felt`: it costs a training run something."""

    what: str
    cost: str
    felt: bool


def versions() -> dict[str, str | None]:
    """The installed version of each of `PACKAGES`, None where it is not; imports none of them."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _proc_value(file: str, *keys: str) -> str:
    """The value of a file's first line `key : value`; empty where there is no such line or file."""
    try:
        text = Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for key in keys:
        match = re.search(rf"^{re.escape(key)}\s*:\s*(.*)$", text, re.MULTILINE)
        if match:
            return match.group(1).strip()
    return ""


def _gib_of(meminfo_key: str) -> float | None:
    value = _proc_value("/proc/meminfo", meminfo_key)
    return round(int(value.split()[0]) * 1024 / GIB, 1) if value else None


def cpu() -> dict[str, Any]:
    """Name, usable cores, memory in GiB (None: not known), bf16 instructions (None: without)."""
    flags = _proc_value("/proc/cpuinfo", "flags", "Features").split()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "name": _proc_value("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": usable,
        "memory_gib": _gib_of("MemTotal"),
        "free_gib": _gib_of("MemAvailable"),
        "bf16": next((flag for flag in BF16_FLAGS if flag in flags), None),
    }


def gpus() -> list[dict[str, Any]]:
    """Every CUDA device torch can use: name, compute capability, memory and free memory in GiB."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(
            {
                "name": torch.cuda.get_device_name(index),
                "capability": ".".join(map(str, torch.cuda.get_device_capability(index))),
                "memory_gib": round(total / GIB, 1),
                "free_gib": round(free / GIB, 1),
            }
        )
    return found


def _first_line(command: list[str], pattern: str) -> str | None:
    """The first line a program prints that matches `pattern`; None where it does not run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = (line.strip() for line in done.stdout.splitlines())
    return next((line for line in lines if re.search(pattern, line)), None)


def compilers() -> dict[str, str | None]:
    """What the C++ compiler ($CXX, else c++ or g++) and nvcc say they are; None: not found."""
    names = (os.environ.get("CXX"), "c++", "g++")
    cxx = next((path for name in names if name and (path := shutil.which(name))), None)
    nvcc = shutil.which("nvcc")
    return {
        "c++": cxx and _first_line([cxx, "--version"], "."),
        "nvcc": nvcc and _first_line([nvcc, "--version"], "release"),
    }


def engines() -> list[Part]:
    """The ways to run the trunk."""
    return [
        Part("fast", True, "rows packed without padding, a T5 that exploits that it is frozen"),
        Part("reference", True, "transformers' T5 in PyTorch, padded"),
    ]


def native_parts() -> list[Part]:
    """The compiled parts, and why each is not active."""
    from compt_fast import native

    extension = native.status()
    return [
        Part("C++/CUDA extension", extension.active, extension.why),
        composition_kernels(),
    ]


def composition_kernels() -> Part:
    """Whether Triton kernels attend, compose and update prompts here."""
    import torch

    from compt_fast.kernels import unavailable

    name = "Triton kernels"
    refused = unavailable(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if refused:
        return Part(name, False, f"{refused}; PyTorch composes and updates the prompts, and no trunk attends by them")
    return Part(
        name,
        True,
        "they attend in the fast engine, and compose and update the prompts, but for lstm encoders, "
        "relaxed-bernoulli routers and input gates, which PyTorch composes; a training says which path its runs take",
    )


def missing() -> list[Missing]:
    """What this machine lacks, and what each costs; nothing of it stops a training."""
    import torch

    from compt_fast import native

    has_gpu, extension = torch.cuda.is_available(), native.status()
    return [
        *_missing_hardware(has_gpu, torch.version.cuda, cpu()),
        *_missing_software(versions(), has_gpu),
        *_missing_extension(extension),
        *_missing_compilers(compilers(), extension.active),
    ]


def _missing_hardware(has_gpu: bool, cuda: str | None, processor: dict[str, Any]) -> Iterator[Missing]:
    if has_gpu:
        return
    where = f"training runs on the CPU, {processor['cores']} cores"
    if cuda is None and shutil.which("nvidia-smi"):
        yield Missing("a torch with CUDA (nvidia-smi is here)", where, True)
    else:
        yield Missing("a GPU", where, True)
    if processor["bf16"] is None:
        yield Missing("bf16 instructions", "--dtype bf16 is emulated, and slow, on this CPU", False)


def _missing_software(found: dict[str, str | None], has_gpu: bool) -> Iterator[Missing]:
    if found["datasets"] is None:
        yield Missing("datasets", "no data from the hub; local folders and mini work", True)
    if found["tensorboard"] is None:
        yield Missing("tensorboard", "no TensorBoard log; metrics.jsonl says the same", False)
    for name in ("matplotlib", "jinja2"):
        if found[name] is None:
            yield Missing(name, "no report of tables and figures; training and results need it not", False)
    if found["triton"] is None:
        yield Missing("triton", "PyTorch does on a GPU what Triton kernels would do quicker", has_gpu)


def _missing_extension(extension: Status) -> Iterator[Missing]:
    if extension.active or extension.pending:
        return
    why = extension.why.splitlines()[0].rstrip(":")  # a compiler's words follow
    yield Missing("the C++ extension", f"{why}; plain PyTorch trains more slowly", True)


def _missing_compilers(tools: dict[str, str | None], has_extension: bool) -> Iterator[Missing]:
    if tools["c++"] is None and has_extension:
        yield Missing("c++", "nothing while this torch stays: the C++ extension is built", False)
    if tools["nvcc"] is None:
        yield Missing("nvcc", "an extension built here serves the CPU only", False)


def missing_line() -> str | None:
    """One line of what is missing and costs a training run something; None where nothing does."""
    felt = [f"{gap.what} ({gap.cost})" for gap in missing() if gap.felt]
    return f"Not on this machine: {'; '.join(felt)}." if felt else None


def environment() -> dict[str, Any]:
    """Where a result was made, JSON-ready: for `results.json` and for `info --json`."""
    import torch

    return {
        "compt_fast": compt_fast.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions(),
        "cuda": torch.version.cuda,
        "cpu": cpu(),
        "gpus": gpus(),
        "threads": torch.get_num_threads(),
    }


def report() -> dict[str, Any]:
    """All that `info` prints, JSON-ready."""
    return environment() | {
        "compilers": compilers(),
        "engines": [asdict(part) for part in engines()],
        "native_parts": [asdict(part) for part in native_parts()],
        "missing": [asdict(gap) for gap in missing()],
    }


def render(facts: dict[str, Any]) -> str:
    """`report()` as the text a person reads."""
    about = [
        ("python", f"{facts['python']}, {facts['platform']}"),
        *((name, version or "not installed") for name, version in facts["packages"].items()),
        ("CUDA of torch", facts["cuda"] or "none: a CPU build"),
    ]
    gaps = [(gap["what"], gap["cost"]) for gap in facts["missing"]]
    sections = {
        f"compt_fast {facts['compt_fast']}": about,
        "Device": _device_rows(facts),
        "Compilers": [(name, tool or "not found") for name, tool in facts["compilers"].items()],
        "Engines": _part_rows(facts["engines"]),
        "Native parts": _part_rows(facts["native_parts"]),
        "Missing, and what it costs": gaps or [("nothing", "all that can be used is here")],
    }
    lines = []
    for title, rows in sections.items():
        width = max(len(name) for name, _ in rows)
        lines += [title, *(f"  {name:{width}}  {text}" for name, text in rows)]
    return "\n".join(lines)


def _device_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for index, gpu in enumerate(facts["gpus"]):
        text = f"{gpu['name']}, compute capability {gpu['capability']}, {_memory(gpu)}"
        rows.append((f"cuda:{index}", text))
    cores = f"{facts['cpu']['cores']} cores, {facts['threads']} threads"
    bf16 = f"bf16 instructions: {facts['cpu']['bf16'] or 'none'}"
    rows.append(("cpu", f"{facts['cpu']['name']}, {cores}, {_memory(facts['cpu'])}; {bf16}"))
    return rows


def _memory(device: dict[str, Any]) -> str:
    if device["memory_gib"] is None:
        return "memory not known"
    return f"{device['memory_gib']} GiB ({device['free_gib']} free)"


def _part_rows(parts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(p["name"], f"{'active' if p['active'] else 'not active'}: {p['why']}") for p in parts]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report, as text or with `--json` as one JSON object; returns the exit code."""
    parser = CommandLine(
        prog="compt-fast info",
        description="Versions, device, engines, and what is missing and what that costs.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)

    def work() -> int:
        facts = report()
        print(json.dumps(facts, indent=2) if arguments.json else render(facts))
        return 0

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
