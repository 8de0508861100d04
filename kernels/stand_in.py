"""A GPU that is not here, as far as Triton asks for one before it starts a kernel.

With it Triton's launcher binds a launch's arguments, specialises the kernel for them and compiles it, as on a device.
Which tiles a launch has is said when it is made: by `launching.assuming`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class StandIn:
    """What Triton's launcher asks of a driver, for a compute capability (80 for 8.0)."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_device(self) -> int:
        """The capability: what is compiled is kept by device, and must not be mixed."""
        return self._capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)


@contextmanager
def standing_in(capability: int) -> Iterator[None]:
    """Inside, Triton takes a GPU of this compute capability for the current one."""
    driver.set_active(StandIn(capability))
    try:
        yield
    finally:
        driver.set_active(None)  # the next one who asks looks for a device again
