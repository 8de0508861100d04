"""What a compiled kernel's code says of how it will run: the programs that fit a multiprocessor beside each other, the
instructions that multiply, the widths of what it reads and writes.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

WARP = 32
REGISTERS = 65536  # of a multiprocessor, from 8.0 to 10.0
REGISTER_STEP = 256  # a warp's are given out by so many
WARP_STEP = 4  # a multiprocessor has four parts, and a program's warps are spread over them
MOST_WARPS, MOST_PROGRAMS = 64, 32
SHARED = {80: 164 * 1024, 90: 228 * 1024, 100: 228 * 1024}
SYSTEM = 1024  # bytes of shared memory a program that are the system's
TENSOR_COLUMNS = 512  # of a multiprocessor's tensor memory

PRODUCTS = {"wgmma": r"\bwgmma\.mma_async\b", "tcgen05": r"\btcgen05\.mma\b", "mma.sync": r"\bmma\.sync\b"}
"""The tensor cores' instructions: of a warp group on 9.0, of a program on 10.0, of a warp anywhere."""
ACCESS = re.compile(r"\b(?:ld|st)\.(?:\w+\.)*global(?:\.[\w:]+?)*?(?:\.v(\d))?\.[bufs](\d+)\s")
COPY = re.compile(r"\bcp\.async\.c[ag]\.shared\.global[^;]*?,\s*0x([0-9a-f]+)")


@dataclass(frozen=True)
class Needs:
    """What a program takes: warps, registers a thread, bytes of shared memory, columns of tensor memory."""

    warps: int
    registers: int
    shared: int
    tensor_columns: int = 0

    def programs(self, target: int) -> int:
        """Programs that a multiprocessor of a compute capability (80 for 8.0) holds at a time."""
        a_warp = -(-self.registers * WARP // REGISTER_STEP) * REGISTER_STEP
        warps = REGISTERS // a_warp // WARP_STEP * WARP_STEP
        fit = [MOST_PROGRAMS, min(warps, MOST_WARPS) // self.warps, SHARED[target] // (self.shared + SYSTEM)]
        if self.tensor_columns:
            fit.append(TENSOR_COLUMNS // self.tensor_columns)
        return min(fit)


def products(ptx: str) -> str:
    """The instruction of `PRODUCTS` that a kernel multiplies with; empty where it has none."""
    return next((name for name, pattern in PRODUCTS.items() if re.search(pattern, ptx)), "")


def accesses(ptx: str) -> dict[int, int]:
    """How many instructions read or write global memory, by the bytes that a thread's one does, the widest first."""
    widths = [int(vector or 1) * int(bits) // 8 for vector, bits in ACCESS.findall(ptx)]
    widths += [int(size, 16) for size in COPY.findall(ptx)]
    return dict(sorted(Counter(widths).items(), reverse=True))
