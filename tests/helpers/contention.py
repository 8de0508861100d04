"""`python -m tests.helpers.contention FOLDER`: a short training with one thread and with two, beside two busy loops.

Prints one JSON object, the CPU seconds that each took. A program of its own, as what it measures is chosen when torch
is loaded; on two cores, whatever the machine has. The bits of both trainings are compared too.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from compt_fast.config.flags import read_flags
from compt_fast.runs.job import open_job
from tests.helpers.busy import busy_loops
from tests.helpers.jobs import equal, train

import torch  # isort: skip  # after compt_fast, as in its commands

THREADS = (1, 2)
FLAGS = {"method": "spp", "steps": "8", "eval_size": "2"}


def main(folder: Path) -> None:
    job = open_job(read_flags(FLAGS, None))
    train(job, job.runs, folder / "warm")
    taken = {}
    with busy_loops(2):
        for threads in THREADS:
            torch.set_num_threads(threads)
            began = time.process_time()
            train(job, job.runs, folder / str(threads))
            taken[threads] = time.process_time() - began
    equal(*(folder / str(threads) for threads in THREADS))
    print(json.dumps(taken))


if __name__ == "__main__":
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    main(Path(sys.argv[1]))
