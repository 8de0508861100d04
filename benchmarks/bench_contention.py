"""What other work on the machine costs a training: `make train`'s job on an idle machine and beside busy loops.

    python -m benchmarks.bench_contention                                        # 20 minutes on two cores
    python -m benchmarks.bench_contention --steps 40 --eval-size 20 --repetitions 5 --busy 0,2
    python -m benchmarks.bench_contention --variants "" OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1

A variant is a list of environment variables; "" is the training as it comes. They take turns, so that what else the
machine does meets all of them. Seconds are of training and scoring, as `results.json` has them; CPU seconds are of the
whole process, its imports included. Beside as many loops as cores a fair share is half the machine. Fails where the
training as it comes misses a goal: at most 2.5 times slower there than idle, and idle at most 3 % slower than with
libgomp's own spinning. The machine must do nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.helpers.busy import busy_loops

LIBGOMP = "GOMP_SPINCOUNT=300000"  # what libgomp takes where nobody says anything
SLOWER_BUSY, SLOWER_IDLE = 2.5, 1.03
Measured = dict[tuple[str, int], list[tuple[float, float]]]  # (seconds, CPU seconds) by variant and busy loops


def train(variant: str, flags: Sequence[str]) -> tuple[float, float]:
    """Seconds of training and scoring, and CPU seconds of all of it, of one process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "compt_fast.train", *flags, "--out", folder]
        chosen = dict(word.split("=", 1) for word in shlex.split(variant))
        process = subprocess.Popen(command, env=os.environ | chosen, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(f"{shlex.join(command)} ended with {process.returncode}")
        seconds: float = json.loads(Path(folder, "results.json").read_text())["wall_seconds"]
    return seconds, used.ru_utime + used.ru_stime


def row_text(variant: str, busy: int, measured: Measured, idle: float) -> str:
    """A line of the table: medians, the range of the seconds, and how often they are those of the idle machine."""
    seconds, cpu = zip(*measured[variant, busy], strict=True)
    middle, spread = statistics.median(seconds), f"{min(seconds):.1f} to {max(seconds):.1f}"
    name = variant or "as it comes"
    return f"{name:32} {busy:4} {middle:8.1f} {spread:>14} {middle / idle:6.2f}x {statistics.median(cpu):8.1f}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["", LIBGOMP])
    parser.add_argument("--busy", default="0,1,2", help="numbers of busy loops")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--steps", help="of every run (default: those of `make train`)")
    parser.add_argument("--eval-size", help="rows a task that are scored (default: those of `make train`)")
    found = parser.parse_args(argv)
    loads = [int(word) for word in found.busy.split(",")]
    flags = [f"--steps={found.steps}"] if found.steps else []
    flags += [f"--eval-size={found.eval_size}"] if found.eval_size else []
    measured: Measured = {}
    print(f"{'':32} busy  seconds          range   idle  CPU seconds")
    for busy in loads:
        with busy_loops(busy):
            for _ in range(found.repetitions):
                for variant in found.variants:
                    measured.setdefault((variant, busy), []).append(train(variant, flags))
        for variant in found.variants:
            idle = statistics.median(seconds for seconds, _ in measured[variant, loads[0]])
            print(row_text(variant, busy, measured, idle), flush=True)
    return 0 if all(goals_met(measured)) else 1


def goals_met(measured: Measured) -> Iterator[bool]:
    """Print, for each goal that was measured, whether the training as it comes meets it."""
    middle = {case: statistics.median(seconds for seconds, _ in both) for case, both in measured.items()}
    cores = os.cpu_count() or 1
    goals = (
        (f"beside {cores} busy loops, of idle", ("", cores), ("", 0), SLOWER_BUSY),
        ("idle, of libgomp's own spinning", ("", 0), (LIBGOMP, 0), SLOWER_IDLE),
    )
    for what, own, other, most in goals:
        if own in middle and other in middle:
            ratio = middle[own] / middle[other]
            print(f"{what}: {ratio:.2f}x; at most {most}: {'met' if ratio <= most else 'NOT met'}")
            yield ratio <= most


if __name__ == "__main__":
    sys.exit(main())
