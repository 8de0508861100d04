"""Where something was made: versions of packages, processor, memory, GPUs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import compt_fast

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "sentencepiece",
    "safetensors",
    "numpy",
    "scipy",
    "scikit-learn",
    "peft",
    "datasets",
    "pyarrow",
    "triton",
    "tensorboard",
    "matplotlib",
    "jinja2",
)
BF16_FLAGS = ("amx_bf16", "avx512_bf16", "avx_ne_convert", "bf16")
"""The processor flags, best first, that mean bf16 arithmetic in hardware (x86-64, then Arm)."""
INT8_FLAGS = ("amx_int8", "avx512_vnni", "avx_vnni")
"""Those, best first, that mean products of int8 summed in int32 (VNNI, x86-64)."""

GIB = 2**30


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
    """Name, usable cores, memory in GiB (None: not known), bf16 and int8 instructions (None: without)."""
    flags = _proc_value("/proc/cpuinfo", "flags", "Features").split()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "name": _proc_value("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": usable,
        "memory_gib": _gib_of("MemTotal"),
        "free_gib": _gib_of("MemAvailable"),
        "bf16": next((flag for flag in BF16_FLAGS if flag in flags), None),
        "int8": next((flag for flag in INT8_FLAGS if flag in flags), None),
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
