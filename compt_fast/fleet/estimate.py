"""What a job will take, from a few of its steps taken on trial."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from compt_fast.errors import InputError, out_of_memory
from compt_fast.fleet.data import ScoredRows
from compt_fast.fleet.evaluation import evaluate
from compt_fast.fleet.monitor import Monitor
from compt_fast.fleet.plan import Run
from compt_fast.fleet.trainer import Trainer
from compt_fast.prompts.bank import parameter_shapes

SHORT = 100  # steps of all runs side by side below which measuring is not worth its time
MEASURED = 3  # steps, after one that warms up


@dataclass(frozen=True)
class Estimate:
    """Seconds of a step of all runs side by side, of scoring a run, and of the whole job; the most
    memory that the process (or the GPU) has held, in bytes.
    """

    step: float
    scoring: float
    whole: float
    memory: int


def estimate(trainer: Trainer) -> Estimate | None:
    """Take some steps of the runs that need most, score a batch, and throw all of it away.

    Where runs differ, neither time nor memory comes out too low by it, and the time may be too high.
    None for a job that is short. Raises `InputError` where memory runs out.
    """
    waiting, width = trainer.waiting, trainer.flags["runs_at_once"]
    steps = sum(trainer.steps_of(run) for run in waiting)
    if steps / max(1, min(width, len(waiting))) < SHORT:
        return None
    text = trainer.flags["max_source_length"]
    largest = sorted(waiting, key=lambda run: _need(run, text), reverse=True)[:width]
    # A few steps are no more than graphs need to be captured: without them the time does not come out too low.
    flags = trainer.flags | {"cuda_graphs": False}
    probe = Trainer(largest, trainer.trunk, trainer.trunk_hash, trainer.data, flags, trainer.folder, _zeros)
    try:
        step, scoring = _step_seconds(probe), _scoring_seconds(probe)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise InputError(
            f"out of memory with {len(probe.runs)} runs side by side: lower --runs-at-once, --batch-size, "
            "--max-source-length or --eval-batch-size"
        ) from None
    whole = step * steps / len(probe.runs) + scoring * len(waiting)
    return Estimate(step, scoring, whole, _peak_memory(trainer.trunk.device))


def _need(run: Run, text: int) -> tuple[int, int]:
    """Orders runs by what their steps take: tokens of the encoder's input at most, then parameters."""
    return run.config.batch_size * (run.shape.target_length + text), run.parameters


def _zeros(run: Run) -> dict[str, Tensor]:
    """Stand-ins for stored prompts, which need not be there yet: the time does not depend on them."""
    sizes = parameter_shapes(run.shape)
    return {name: torch.zeros(sizes[name]) for name in sizes if name.endswith("_tokens")}


def _step_seconds(probe: Trainer) -> float:
    with (
        tempfile.TemporaryDirectory() as folder,
        Monitor(Path(folder), probe.total_steps, Console(quiet=True), tensorboard=False) as monitor,
    ):
        probe.refill()
        probe.train_step(monitor)
        began = time.perf_counter()
        for _ in range(MEASURED):
            probe.train_step(monitor)  # its reading of the losses waits for a GPU
        return (time.perf_counter() - began) / MEASURED


def _scoring_seconds(probe: Trainer) -> float:
    """Seconds to score the run of the longest prompts, from a batch of some rows of every task."""
    run = max(probe.runs, key=lambda run: run.shape.target_length)
    size = probe.flags["eval_batch_size"]
    cohort = next(cohort for cohort in probe.cohorts if cohort.shape == run.shape)
    sets = probe.evaluation_of(run)
    prompts = cohort.prompts(0)
    for share in (1, max(1, size // len(sets))):  # the first one warms up
        part = [ScoredRows(rows.task, rows.sources[:share], rows.golds[:share]) for rows in sets]
        began = time.perf_counter()
        evaluate(
            probe.trunk,
            probe.data,
            prompts,
            part,
            mode=run.config.label_mode,
            scoring=probe.flags["scoring"],
            batch_size=size,
        )
        seconds = time.perf_counter() - began
    return seconds * sum(len(rows.sources) for rows in sets) / sum(len(rows.sources) for rows in part)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
