"""`python -m benchmarks.memory "fast bf16" t5-base FOLDER`: peak bytes of `STEPS` training steps, weights included.

Above what the process held when it had imported everything; on a GPU, of the GPU's memory.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import torch

from benchmarks.engines import opened

STEPS = 6  # on batches as they are drawn: a padded one is as large as its longest row makes it
STATUS = Path("/proc/self/status")


def resident(name: str) -> int:
    """Bytes of memory that the process holds (VmRSS) or held at most (VmHWM)."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Prints the number of bytes."""
    name, size, folder = sys.argv[1:]

    before = resident("VmRSS")
    engine = opened(name, size, Path(folder))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # what was held at most is what is held now
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with engine.training() as step:
        for _ in range(STEPS):
            step()
    if torch.cuda.is_available():
        print(torch.cuda.max_memory_allocated())
    else:
        print(resident("VmHWM") - before)


if __name__ == "__main__":
    main()
