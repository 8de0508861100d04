"""How a kernel is started: its arguments are looked up by the names of its signature, and the GPU it is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

STAGES = 4  # buffers of a software pipeline, so that enough loads are under way with two programs a multiprocessor

_assumed = 80


def capability(x: Tensor) -> int:
    """The compute capability, 90 for 9.0, of the GPU that a tensor is on: on which a kernel's tiles may depend.

    Of tensors on none (without data, or in Triton's interpreter) that of `assuming`; without it the oldest supported.
    """
    if x.device.type != "cuda":
        return _assumed
    major, minor = torch.cuda.get_device_capability(x.device)
    return 10 * major + minor


@contextmanager
def assuming(capability: int) -> Iterator[None]:
    """Inside, what is launched on tensors that are on no GPU is launched as for one of this compute capability."""
    global _assumed
    before, _assumed = _assumed, capability
    try:
        yield
    finally:
        _assumed = before


@dataclass(frozen=True)
class Launch:
    """A kernel, the number of its programs, its arguments by name, and warps and stages a program."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, Any]:
        """How it is compiled, in Triton's words."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


def _start(launch: Launch) -> None:
    # Triton starts on the current device, whichever the tensors are on.
    some = next(value for value in launch.arguments.values() if isinstance(value, Tensor))
    with torch.cuda.device_of(some):
        launch.kernel[(launch.programs,)](**launch.arguments, **launch.options)


_starter: Callable[[Launch], None] = _start


def launch(kernel: Any, programs: int, values: Mapping[str, Any], warps: int = 4, stages: int = STAGES) -> None:
    """Starts `programs` programs of a kernel; `values` may hold more than the kernel asks for."""
    arguments = {name: values[name] for name in kernel.arg_names}
    _starter(Launch(kernel, programs, arguments, warps, stages))


@contextmanager
def recorded(*, started: bool = False) -> Iterator[list[Launch]]:
    """Inside, launches are listed, and not started unless asked for."""
    global _starter
    found: list[Launch] = []

    def note(launch: Launch) -> None:
        found.append(launch)
        if started:
            _start(launch)

    before, _starter = _starter, note
    try:
        yield found
    finally:
        _starter = before
