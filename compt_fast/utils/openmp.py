"""How long torch's threads spin for one another before they sleep; decided before torch is imported.

A step is some two hundred parallel regions, and each ends when all threads have arrived. Left to itself, libgomp's
thread spins 300,000 turns for the others, 2 to 17 ms by the processor, before it sleeps. Beside other work that is
about a time slice: it spins away the core that the thread it waits for has not got. docs/contention.md has figures.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping

SPIN_COUNT = 4000
"""Turns of libgomp's waiting loop, 25 to 200 microseconds by the processor: about what Python takes from one region to
the next, and far below a time slice."""

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""The variables by which a user decides it; where one of them is set nothing is changed."""


def bound_spinning(environment: MutableMapping[str, str]) -> None:
    """Let libgomp spin `SPIN_COUNT` turns, where the user chose nothing.

    It reads its environment when it is loaded, which importing torch does: after that nothing is set, as it would only
    seem to hold. Other runtimes, such as LLVM's, which torch for macOS brings, do not know the variable.
    """
    if "torch" not in sys.modules and not any(name in environment for name in CHOICES):
        environment["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
