"""Kill trainers and drivers of jobs on a cluster of Ray at random moments, go on, and compare every bit.

    python -m tools.ray_kills                    # 30 kills; about a minute each on two cores
    python -m tools.ray_kills --kills 4 --seed 7

The cluster is of two machines of one processor each, as processes of this one. Each job is begun by
`compt_fast.train --ray`, and one to three times something that belongs to it is killed (SIGKILL): a trainer, or the
driver, after which `--resume` goes on, on the cluster or without it. What a job comes to, its prompts, scores and
losses, has to be that of one that nobody disturbed on one machine: no run lost, none doubled.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from compt_fast.utils.cluster import URGENT
from tools.kills import content

JOB = ["--method=pt,spp", "--tasks=mini_rte,mini_qnli", "--seeds=0,1", "--steps=60", "--shots=4", "--eval-size=8"]
JOB += ["--scoring=rank", "--prompt-length=4", "--checkpoint-every=10", "--runs-at-once=3", "--device=cpu"]
MARK = "COMPT_FAST_RAY_KILLS"  # in the environment of all processes of the campaign's cluster
MOST = 3  # kills of a job
PATIENCE = 900  # seconds that a job may take


def trainers(mark: str) -> list[int]:
    """The processes that train on the cluster of this `mark`, those that start among them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
            if title.startswith(b"ray::Worker") and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has ended
            continue
    return sorted(found)


def comparable(folder: Path) -> dict[str, Any]:
    """What a run folder holds; the steps of different runs in whatever order."""
    found = content(folder)
    found["metrics.jsonl"].sort(key=lambda record: (record["run"], record["step"]))
    return found


@dataclass
class Campaign:
    """Jobs on the cluster at `address`, each compared with `whole`, what an undisturbed one comes to."""

    address: str
    mark: str
    root: Path
    chance: random.Random
    whole: dict[str, Any]
    seconds: float  # that an undisturbed one takes

    def job(self, number: int, kills: int) -> tuple[str, Counter[str]]:
        """Train a job with so many kills; what is wrong with what it came to, "" if nothing is, and who was killed."""
        folder, killed = self.root / f"job-{number}", Counter[str]()
        end = time.monotonic() + PATIENCE
        process = self._start(folder)
        at = self._moment()
        while (code := process.poll()) is None or killed["drivers"] > 0 and code == -signal.SIGKILL:
            if time.monotonic() > end:
                process.kill()
                return f"it is not through after {PATIENCE} s: {self._said()}", killed
            if code is not None:
                process = self._start(folder)
            elif time.monotonic() >= at and killed.total() < kills and self._kill(process, killed):
                at = self._moment()
            time.sleep(0.05)
        if code != 0:
            return f"it ended with {code}: {self._said()}", killed
        found = comparable(folder)
        names = found.keys() | self.whole.keys()
        wrong = sorted(name for name in names if found.get(name, "") != self.whole.get(name, ""))
        shutil.rmtree(folder)
        return f"other than undisturbed: {', '.join(wrong)}" if wrong else "", killed

    def _moment(self) -> float:
        return time.monotonic() + self.chance.uniform(0, 0.7 * self.seconds)

    def _kill(self, process: subprocess.Popen[bytes], killed: Counter[str]) -> bool:
        """Kill the driver or a trainer; False where there is no trainer yet."""
        if self.chance.random() < 0.4:
            process.kill()
            process.wait()
            killed["drivers"] += 1
            return True
        there = trainers(self.mark)
        if there:
            os.kill(self.chance.choice(there), signal.SIGKILL)
            killed["trainers"] += 1
        return bool(there)

    def _start(self, folder: Path) -> subprocess.Popen[bytes]:
        """Begin a job, or go on with it: on the cluster, or once in four times on this machine alone."""
        begun = (folder / "config.json").exists()
        line = [f"--resume={folder}"] if begun else [*JOB, f"--out={folder}"]
        if not begun or self.chance.random() < 0.75:
            line.append(f"--ray={self.address}")
        with open(self.root / "log", "wb") as log:
            return subprocess.Popen([sys.executable, "-m", "compt_fast.train", *line], stdout=log, stderr=log)

    def _said(self) -> str:
        return (self.root / "log").read_text(errors="replace")[-2000:]


def undisturbed(root: Path, *line: str) -> float:
    """Train a job that nobody disturbs in the folder `whole` of `root`; the seconds that it took."""
    began = time.monotonic()
    command = [sys.executable, "-m", "compt_fast.train", *JOB, f"--out={root / 'whole'}", *line]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def campaign(kills: int, seed: int) -> int:
    """Kill so often, and print what came of each job; 1 if one came to something else."""
    mark = uuid4().hex
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", MARK: mark}
    from ray.cluster_utils import Cluster

    chance, total, bad = random.Random(seed), Counter[str](), 0
    with tempfile.TemporaryDirectory(prefix="ray-kills-") as folder:
        root = Path(folder)
        undisturbed(root)
        whole = comparable(root / "whole")
        shutil.rmtree(root / "whole")
        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": URGENT}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            cluster.add_node(num_cpus=1)
            seconds = undisturbed(root, f"--ray={cluster.address}")
            made = Campaign(cluster.address, mark, root, chance, whole, seconds)
            number = 0
            while total.total() < kills:
                number += 1
                wanted = min(chance.randint(1, MOST), kills - total.total())
                wrong, killed = made.job(number, wanted)
                total += killed
                bad += bool(wrong)
                what = ", ".join(f"{count} {name}" for name, count in sorted(killed.items())) or "nobody"
                print(f"job {number}: {what} killed; {wrong or 'every bit as undisturbed'}", flush=True)
        finally:
            cluster.shutdown()
    print(f"{number} jobs, {total['trainers']} trainers and {total['drivers']} drivers killed; {bad} jobs were others")
    return int(bad > 0)


def main(argv: list[str] | None = None) -> int:
    """Run a campaign."""
    parser = argparse.ArgumentParser(prog="python -m tools.ray_kills", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kills", type=int, default=30, help="in all (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: 0)")
    given = parser.parse_args(argv)
    return campaign(given.kills, given.seed)


if __name__ == "__main__":
    sys.exit(main())
