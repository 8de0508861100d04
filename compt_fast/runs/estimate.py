"""What a job will take, from a few of its steps taken on trial."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from compt_fast.evaluation.evaluator import predict
from compt_fast.evaluation.passes import Asked
from compt_fast.prompts.parameters import parameter_shapes
from compt_fast.tasks.examples import ScoredRows
from compt_fast.training.loop import SELECTIONS, Trainer
from compt_fast.training.monitor import Monitor
from compt_fast.training.plan import Run
from compt_fast.utils.errors import InputError, out_of_memory

WORTH = 25  # measuring is worth its time where the job takes so many times as long
TRAINED = 2  # a row that is trained on, forward and back, takes about as long as so many that are scored
MEASURED = 3  # steps, after one that warms up
PARTS = 3  # of a plan of runs that differ, each measured by some of its own


@dataclass(frozen=True)
class Estimate:
    """Seconds of a step of the runs side by side and of scoring a run, both on average, and of all
    that is left of the job; the most memory that the process (or the GPU) has held, in bytes.
    """

    step: float
    scoring: float
    whole: float
    memory: int


@dataclass(frozen=True)
class _Part:
    """Runs that follow one another in the plan, and those of them, or beside them, that are measured."""

    runs: Sequence[Run]
    probed: Sequence[Run]


def estimate(trainer: Trainer) -> Estimate | None:
    """Take some steps and score a batch of rows, and throw all of it away.

    The runs that need most are among those measured, so that the memory does not come out too low. In a long
    job whose runs differ the time is that of neighbours in the plan from up to `PARTS` places of it, else that of
    the runs that need most, which may be too high. It may be too low by what the last runs take, fewer than
    before side by side. Baselines, which train alone, are not measured. None for a job that is done or short. Raises
    `InputError` where memory runs out.
    """
    left = [run for run in trainer.waiting if not run.alone]
    width = min(trainer.settings.runs_at_once, len(left))
    if not left:
        return None
    text = trainer.settings.max_source_length
    largest = sorted(left, key=lambda run: _need(run, text), reverse=True)[:width]
    alike = len({_need(run, text) for run in left}) == 1
    most = 1 if alike else min(PARTS, -(-len(left) // width))
    bearable = _work(trainer, left) / WORTH
    count = next((n for n in range(most, 0, -1) if _cost(trainer, largest, n) <= bearable), 0)
    if not count:
        return None
    parts = _parts(left, width, count) if count > 1 else [_Part(left, largest)]
    training = scoring = 0.0
    try:
        if count > 1:
            _seconds(trainer, largest, 0)
        for part in parts:
            step, score = _seconds(trainer, part.probed, MEASURED)
            training += step / len(part.probed) * sum(trainer.steps_left(run) for run in part.runs)
            scoring += score * sum(scored_rows(trainer, run) for run in part.runs)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise InputError(
            f"out of memory with {width} runs side by side: lower --runs-at-once, --batch-size, "
            "--max-source-length or --eval-batch-size"
        ) from None
    steps = sum(trainer.steps_left(run) for run in left) / width
    memory = _peak_memory(trainer.trunk.device)
    return Estimate(training / max(1.0, steps), scoring / len(left), training + scoring, memory)


def _need(run: Run, text: int) -> tuple[int, int]:
    """Orders runs by what their steps take: tokens of the encoder's input at most, then parameters."""
    return run.config.batch_size * (run.shape.target_length + text), run.parameters


def _parts(runs: Sequence[Run], width: int, count: int) -> list[_Part]:
    """`runs` in `count` parts, and in the middle of each, as far as can be, `width` runs."""
    bounds = [i * len(runs) // count for i in range(count + 1)]
    parts = []
    for low, high in zip(bounds, bounds[1:], strict=False):
        first = max(0, min((low + high - width) // 2, len(runs) - width))
        parts.append(_Part(runs[low:high], runs[first : first + width]))
    return parts


def _work(trainer: Trainer, runs: Sequence[Run]) -> int:
    """What is left of `runs`, in scored rows."""
    trained = sum(trainer.steps_left(run) * run.config.batch_size for run in runs)
    return TRAINED * trained + sum(scored_rows(trainer, run) for run in runs)


def cost(trainer: Trainer, run: Run) -> int:
    """What is left of a run, in tokens of the encoder's input that are scored: it orders runs, and is no time."""
    return _work(trainer, [run]) * (run.shape.target_length + trainer.settings.max_source_length)


def _cost(trainer: Trainer, largest: Sequence[Run], parts: int) -> int:
    """What it takes to measure so many parts, at most, in scored rows."""
    step = TRAINED * sum(run.config.batch_size for run in largest)
    scored = max(trainer.settings.eval_batch_size, len(trainer.data.tasks))
    return parts * ((1 + MEASURED) * step + scored) + (parts > 1) * (step + scored)


def scored_rows(trainer: Trainer, run: Run) -> int:
    """Rows that a run is scored on at its end and, to select the best of its weights, before."""
    rows = sum(len(of.inputs) for of in trainer.evaluation_of(run))
    if trainer.settings.develops:
        steps, development = trainer.steps_of(run), trainer.development_of(run)
        every = max(1, steps // SELECTIONS) if trainer.settings.select == "best" else steps
        before = trainer.begun.get(run.id, 0) // every
        rows += (-(-steps // every) - before) * sum(len(of.inputs) for of in development)
    return rows


def _zeros(run: Run) -> dict[str, Tensor]:
    """Stand-ins for stored prompts, which need not be there yet: the time does not depend on them."""
    sizes = parameter_shapes(run.shape)
    return {name: torch.zeros(sizes[name]) for name in sizes if name.endswith("_tokens")}


def _zero_teachers(run: Run) -> Tensor | None:
    """The same of what it learns from."""
    shape = run.shape
    return torch.zeros(shape.tasks, shape.target_length, shape.d_model) if run.config.distils else None


def _seconds(trainer: Trainer, runs: Sequence[Run], steps: int) -> tuple[float, float]:
    """Seconds of a step of `runs` side by side, as `steps` after a first one take on average, and of scoring a row."""
    # A few steps are no more than graphs need to be captured: without them the time does not come out too low.
    settings = replace(trainer.settings, cuda_graphs=False)
    of = (trainer.trunk, trainer.trunk_hash, trainer.data, settings, trainer.folder)
    probe = Trainer(list(runs), *of, start=_zeros, teachers=_zero_teachers)
    return _step_seconds(probe, steps), _row_seconds(probe)


@contextmanager
def _silent(probe: Trainer) -> Iterator[Monitor]:
    """A monitor that leaves no trace."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Monitor(Path(folder), probe.total_steps, Console(quiet=True)) as monitor,
    ):
        yield monitor


def _step_seconds(probe: Trainer, steps: int) -> float:
    with _silent(probe) as monitor:
        probe.refill()
        probe.train_step(monitor)
        began = time.perf_counter()
        for _ in range(steps):
            probe.train_step(monitor)  # its reading of the losses waits for a GPU
        return (time.perf_counter() - began) / max(1, steps)


def _row_seconds(probe: Trainer) -> float:
    """Seconds to score a row with the longest prompts, from a batch of some rows of every task."""
    run = max(probe.runs, key=lambda run: run.shape.target_length)
    size = probe.settings.eval_batch_size
    cohort = next(cohort for cohort in probe.cohorts if cohort.shape == run.shape)
    sets = probe.evaluation_of(run)
    prompts = cohort.prompts(0)
    for share in (1, max(1, size // len(sets))):  # the first one warms up
        part = [ScoredRows(rows.task, rows.inputs[:share], rows.golds[:share]) for rows in sets]
        began = time.perf_counter()
        asked = Asked(probe.trunk, prompts, part, run.config.label_mode)
        list(predict(probe.data, [asked], scoring=probe.settings.scoring, batch_size=size))
        seconds = time.perf_counter() - began
    return seconds / sum(len(rows.inputs) for rows in part)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
