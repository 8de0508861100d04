"""What Ray costs a training on one machine, and what a second machine brings: seconds of whole commands.

    python -m benchmarks.bench_ray                                  # half an hour on two cores that do nothing else
    python -m benchmarks.bench_ray --steps 40 --eval-size 20 --repetitions 1

Three ways take turns: the plain command in one thread; `--ray` on a cluster of one machine of one processor; on a
cluster of two such machines, which are processes of this one. Each also trains one step of the same job, and what that
takes, the start of the processes and the scoring among it, is taken off: what is compared are the steps between. Prints
medians over repetitions, the ratios of each repetition, and the whole commands too. Fails where one machine's overhead
is above 5 %, or two machines are less than 1.8 times as fast as one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from compt_fast.utils.cluster import URGENT
from compt_fast.utils.environment import environment

OVERHEAD, FASTER = 0.05, 1.8
WAYS = ("plain", "one machine", "two machines")
Measured = dict[tuple[str, int], list[float]]  # seconds by way and steps


@contextmanager
def clusters() -> Iterator[dict[str, list[str]]]:
    """What the command line of each way has beside the job's flags."""
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    from ray.cluster_utils import Cluster

    made = []
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": URGENT}
    try:
        for machines in (1, 2):
            made.append(Cluster(initialize_head=True, head_node_args=head))
            for _ in range(machines - 1):
                made[-1].add_node(num_cpus=1)
        yield dict(zip(WAYS, [[], *([f"--ray={cluster.address}"] for cluster in made)], strict=True))
    finally:
        for cluster in made:
            cluster.shutdown()


def seconds(flags: Sequence[str]) -> float:
    """Of a training, as a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "compt_fast.train", *flags, f"--out={folder}/run"]
        began = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}")
        return time.monotonic() - began


def measured(flags: Sequence[str], steps: int, repetitions: int) -> Measured:
    """Each way's seconds for one step and for `steps`, in turns."""
    found: Measured = {}
    with clusters() as ways:
        for _ in range(repetitions):
            for way, beside in ways.items():
                for count in (1, steps):
                    found.setdefault((way, count), []).append(seconds([*flags, *beside, f"--steps={count}"]))
    return found


def table(found: Measured, steps: int) -> tuple[str, float, float]:
    """The table, and of the medians over repetitions: the overhead of one machine, and two machines' gain over it."""
    between = {way: [b - a for a, b in zip(found[way, 1], found[way, steps], strict=True)] for way in WAYS}
    plain, one, two = (between[way] for way in WAYS)
    overheads = [a / b - 1 for a, b in zip(one, plain, strict=True)]
    gains = [a / b for a, b in zip(one, two, strict=True)]
    lines = [f"{'':14}{'whole command':>16}{'one step':>12}{'between':>12}"]
    for way in WAYS:
        of = (found[way, steps], found[way, 1], between[way])
        lines.append(f"{way:14}{statistics.median(of[0]):14.1f} s{statistics.median(of[1]):10.1f} s")
        lines[-1] += f"{statistics.median(of[2]):10.1f} s"
    overhead, gain = statistics.median(overheads), statistics.median(gains)
    lines.append(f"overhead of one machine {overhead:.1%} ({', '.join(f'{x:.1%}' for x in overheads)})")
    lines.append(f"two machines over one {gain:.2f}x ({', '.join(f'{x:.2f}' for x in gains)})")
    return "\n".join(lines), overhead, gain


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and say by the exit code whether both goals are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--eval-size", type=int, default=50)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seeds", default="0,1,2,3", help="a run of spp, pt and mst each")
    parser.add_argument("-o", "--output", type=Path, help="a JSON file for all that was measured")
    given = parser.parse_args(argv)
    flags = [f"--seeds={given.seeds}", f"--eval-size={given.eval_size}", "--scoring=rank", "--device=cpu"]
    found = measured(flags, given.steps, given.repetitions)
    text, overhead, gain = table(found, given.steps)
    print(text)
    if given.output:
        kept = [{"way": way, "steps": steps, "seconds": of} for (way, steps), of in found.items()]
        given.output.write_text(json.dumps({"environment": environment(), "flags": flags, "measured": kept}, indent=2))
    return int(overhead > OVERHEAD or gain < FASTER)


if __name__ == "__main__":
    sys.exit(main())
