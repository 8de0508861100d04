"""Triton kernels, imported as `compt_fast.kernels`; README.md beside this derives what they compute.

Nothing here imports Triton: the modules that do are imported where a kernel runs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

CAPABILITY = (8, 0)  # tf32 products and asynchronous copies
HAS_TRITON = importlib.util.find_spec("triton") is not None


def unavailable(device: torch.device) -> str:
    """Why no kernel runs on a device; empty where they do."""
    if device.type != "cuda":
        return f"kernels need a CUDA device, and this is {device.type}"
    if torch.cuda.get_device_capability(device) < CAPABILITY:
        return f"kernels need compute capability {'.'.join(map(str, CAPABILITY))} or newer"
    return "" if HAS_TRITON else "triton is not installed"


def fetched(there: Tensor) -> Callable[[], Tensor]:
    """What gives a copy on the host of a tensor of a device's, and waits no longer than until it was made now."""
    if not there.is_cuda:
        return lambda: there.cpu()
    host = torch.empty(there.shape, dtype=there.dtype, pin_memory=True)
    host.copy_(there, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(there.device))

    def read() -> Tensor:
        done.synchronize()
        return host

    return read


def moved(host: Tensor, device: torch.device) -> Tensor:
    """A copy of a tensor of the host's on a device, for which nobody waits."""
    pinned = host.pin_memory() if device.type == "cuda" and not host.is_cuda else host
    return pinned.to(device, non_blocking=True)
