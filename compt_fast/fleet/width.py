"""How many runs train side by side where the user leaves it to the machine: what its memory holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import torch

from compt_fast.errors import InputError, out_of_memory
from compt_fast.flags import AUTO
from compt_fast.fleet.estimate import first_step, need, zeros
from compt_fast.fleet.job import Job
from compt_fast.fleet.trainer import Trainer

MOST = 24  # beyond it there is little to gain: 27 runs side by side train 13 % more rows a second than 9
SHARE = 0.5  # of the free memory; the rest is for scoring, for longer rows than those measured, and for others
UNKNOWN = 12  # where the system does not say how much memory is free
EVERY = 0.001  # seconds between two looks at the memory


def settled(job: Job, folder: Path) -> Job:
    """The job with a number in place of `--runs-at-once auto`.

    One step of the run that needs most is taken, and thrown away. What it takes the first time, with all that is
    made once for any number of runs, is an upper bound of what each run takes. Raises `InputError` where it is more
    than there is.
    """
    if job.flags["runs_at_once"] != AUTO:
        return job
    free = free_memory(job.trunk.device)
    width = UNKNOWN if free is None else max(1, min(MOST, int(SHARE * free / max(1, _bytes_of_a_run(job, folder)))))
    return replace(job, flags=job.flags | {"runs_at_once": width})


def _bytes_of_a_run(job: Job, folder: Path) -> int:
    """What the memory holds at most, beyond what it held before, in a step of the run that needs most."""
    text = job.flags["max_source_length"]
    run = max(job.runs, key=lambda run: need(run, text))
    flags = job.flags | {"runs_at_once": 1, "cuda_graphs": False}
    probe = Trainer([run], job.trunk, job.trunk_hash, job.data, flags, folder, zeros)
    try:
        with _growth(job.trunk.device) as grown:
            first_step(probe)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise InputError(
            f"out of memory with the run {run.id} alone: lower --batch-size or --max-source-length"
        ) from None
    return grown[0]


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free for the trunk's device; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return None
    try:  # what a container may take, of which the file above knows nothing
        group = Path("/sys/fs/cgroup")
        return min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        return free


@contextmanager
def _growth(device: torch.device) -> Iterator[list[int]]:
    """A list that holds, afterwards, by how many bytes memory had grown at most."""
    grown = [0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield grown
        grown[0] = torch.cuda.max_memory_allocated(device) - before
        return
    before, done = _resident(), Event()

    def watch() -> None:
        while not done.wait(EVERY):
            grown[0] = max(grown[0], _resident() - before)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        yield grown
    finally:
        done.set()
        watcher.join()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
