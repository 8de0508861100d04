"""What a job prints: its plan before the first step, its table after the last."""

from __future__ import annotations

from rich.console import Console

from compt_fast.console import for_tables
from compt_fast.fleet.estimate import Estimate
from compt_fast.fleet.graphs import eager, refused
from compt_fast.fleet.results import terminal_table
from compt_fast.fleet.trainer import Trainer
from compt_fast.prompts.fused import path


def print_plan(console: Console, trainer: Trainer, estimate: Estimate | None) -> None:
    """Runs, tasks, steps, sizes and the time that they will take, in a few lines."""
    runs, flags = trainer.runs, trainer.flags
    counts = [run.parameters for run in runs]
    methods = ", ".join(dict.fromkeys(run.config.method for run in runs))
    steps = [trainer.steps_of(run) for run in runs]
    names = ", ".join(data.task.name for data in trainer.data.tasks)
    done = f", {len(trainer.results)} of them done" if trainer.results else ""
    console.print(f"{len(runs)} runs ({methods}), {min(len(runs), flags['runs_at_once'])} side by side{done}")
    console.print(f"{len(trainer.data.tasks)} tasks: {names}", soft_wrap=True)
    for note in (split.note for data in trainer.data.tasks for split in (data.train, data.evaluation)):
        if note:
            console.print(note, soft_wrap=True)
    dtype = str(trainer.trunk.dtype).removeprefix("torch.")
    console.print(
        f"{_span(steps)} steps a run; {_span(counts)} trainable parameters a run; "
        f"trunk {trainer.trunk.name} ({dtype}, {trainer.trunk.device})",
        soft_wrap=True,
    )
    for note in [*composing(trainer), *replaying(trainer)]:
        console.print(note, soft_wrap=True)
    console.print(_cost(trainer, estimate), soft_wrap=True)
    console.print(f"run folder: {trainer.folder}", soft_wrap=True)


def _cost(trainer: Trainer, estimate: Estimate | None) -> str:
    """Steps and memory, and what measured steps say of them."""
    sizes = sorted((12 * run.parameters for run in trainer.runs), reverse=True)
    parameters = sum(sizes[: trainer.flags["runs_at_once"]]) / 2**20
    text = (
        f"{trainer.total_steps:,} steps in all; parameters and moments of the runs side by side {parameters:,.0f} MiB"
    )
    if estimate is None:
        return text
    return (
        f"{text}, memory in all {estimate.memory / 2**30:.1f} GiB; about {duration(estimate.whole)} "
        f"({estimate.step:.2f} s a step of runs side by side and {estimate.scoring:.1f} s to score a run, as measured)"
    )


def duration(seconds: float) -> str:
    """Minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def composing(trainer: Trainer) -> list[str]:
    """Which path composes the prompts of which methods, and why: a line a path."""
    methods: dict[tuple[str, str], dict[str, None]] = {}
    for run in trainer.runs:
        methods.setdefault(path(run.shape, trainer.trunk.device), {})[run.config.method] = None
    return [f"prompts of {', '.join(of)} composed by the {name}: {why}" for (name, why), of in methods.items()]


def replaying(trainer: Trainer) -> list[str]:
    """Which methods' steps are replayed as CUDA graphs where that is asked for, and why others are not."""
    if not trainer.flags["cuda_graphs"]:
        return []
    why = refused(trainer.trunk) or next((why for run in trainer.runs if (why := eager(run.shape))), "")
    return [f"steps are not replayed as CUDA graphs: {why}" if why else "steps are replayed as CUDA graphs"]


def _span(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def print_results(console: Console, trainer: Trainer) -> None:
    """The table of methods and tasks, and where everything lies."""
    for_tables(console).print(terminal_table(trainer.ended))
    console.print(
        f"{duration(trainer.wall_seconds)}; results in {trainer.folder}/results.json and results.md",
        soft_wrap=True,
    )
