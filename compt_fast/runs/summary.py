"""What a job prints: its plan before the first step, its table after the last."""

from __future__ import annotations

import shlex
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from compt_fast.config.choices import SYNCHRONOUS
from compt_fast.config.job import JobSettings
from compt_fast.ops.compose import path
from compt_fast.ops.paths import FORMULA, TRITON
from compt_fast.runs.answers import off_label_notes
from compt_fast.runs.estimate import Estimate
from compt_fast.search.record import NAME as RECORD
from compt_fast.search.record import Interval, Record
from compt_fast.search.trials import best_of
from compt_fast.training.graphs import eager, refused
from compt_fast.training.halving import rungs_of
from compt_fast.training.loop import Trainer
from compt_fast.training.plan import bytes_at_once
from compt_fast.training.results import RunResult, print_scores
from compt_fast.utils.words import duration, listed, plural

if TYPE_CHECKING:
    from compt_fast.search.control import Search


def print_plan(console: Console, trainer: Trainer, estimate: Estimate | None) -> None:
    """Runs, tasks, steps, sizes and the time that they will take, in a few lines; of a job that goes on, what is
    done and what is left.
    """
    runs = trainer.runs
    console.print(_runs(trainer), soft_wrap=True)
    if len(trainer.results) == len(runs):
        console.print(f"run folder: {trainer.folder}", soft_wrap=True)
        return
    counts = [run.parameters for run in runs]
    steps = [trainer.steps_of(run) for run in runs]
    names = ", ".join(data.task.name for data in trainer.data.tasks)
    console.print(f"{plural(len(trainer.data.tasks), 'task')}: {names}", soft_wrap=True)
    for note in (split.note for data in trainer.data.tasks for split in (data.train, data.evaluation)):
        if note:
            console.print(note, soft_wrap=True)
    dtype = str(trainer.trunk.dtype).removeprefix("torch.")
    console.print(
        f"{_span(steps)} steps a run; {_span(counts)} trainable parameters a run; "
        f"trunk {trainer.trunk.name} ({dtype}, {trainer.trunk.device})",
        soft_wrap=True,
    )
    for note in (*foreign_words(trainer), *composing(trainer), *replaying(trainer), *halving(trainer)):
        console.print(note, soft_wrap=True)
    console.print(_cost(trainer, estimate), soft_wrap=True)
    console.print(f"run folder: {trainer.folder}", soft_wrap=True)


def steps_before(before: Sequence[Trainer], settings: JobSettings) -> list[str]:
    """A line where `--steps` is given, and what is trained before the job with these settings takes its own number."""
    if not before or settings.source_steps is not None or "steps" not in settings.sweep.values:
        return []
    steps = [trainer.steps_of(run) for trainer in before for run in trainer.runs]
    return [f"--steps is of stage two; stage one takes {_span(steps)} steps a run, or those of --source-steps"]


def foreign_words(trainer: Trainer) -> list[str]:
    """A line where the embedded trunk is to read texts that are not of its world."""
    names = [data.task.name for data in trainer.data.tasks if data.task.origin != "mini"]
    if trainer.trunk.name != "mini" or not names:
        return []
    return [
        "note: the embedded trunk mini knows the words of the embedded tasks alone, and spells those of "
        f"{listed(names)} letter by letter: scores will mean little; name a T5 that has read more (--model t5-base)"
    ]


def _runs(trainer: Trainer) -> str:
    """How many runs there are, how many of them are done, and how many train side by side."""
    runs, done = trainer.runs, len(trainer.results)
    text = f"{plural(len(runs), 'run')} ({', '.join(dict.fromkeys(run.config.method for run in runs))})"
    left = len(runs) - done
    if not left:
        return f"{text}: done, nothing is left to train"
    if done or trainer.begun:
        begun = f" ({len(trainer.begun)} begun)" if trainer.begun else ""
        text += f": {done} done, {left} left{begun}"
    waiting = trainer.waiting
    alone = sum(run.alone for run in waiting)
    together = min(len(waiting) - alone, trainer.settings.runs_at_once)
    if len(runs) > 1:
        text += f", {together} side by side" * bool(together) + f", {alone} one after another" * bool(alone)
    return text


def _cost(trainer: Trainer, estimate: Estimate | None) -> str:
    """Steps and memory, and what measured steps say of them."""
    parameters = bytes_at_once(trainer.waiting, trainer.settings.runs_at_once) / 2**20
    left = sum(trainer.steps_left(run) for run in trainer.runs)
    part = left < trainer.total_steps
    text = f"{trainer.total_steps:,} steps in all" + (f", {left:,} of them left" if part else "")
    text += f"; parameters and moments of the runs side by side {parameters:,.0f} MiB"
    if estimate is None:
        return text
    reach = "about" if trainer.graphs is None else "at most"  # steps were measured operator by operator
    return (
        f"{text}, memory in all {estimate.memory / 2**30:.1f} GiB; {reach} {duration(estimate.whole)}"
        f"{' for what is left' if part else ''}"
        f"{', the baselines not counted' if any(run.alone for run in trainer.waiting) else ''} "
        f"({estimate.step:.2f} s a step of runs side by side and {estimate.scoring:.1f} s to score a run, as measured)"
    )


_PATHS = {FORMULA: "the formula", TRITON: "the kernels"}


def composing(trainer: Trainer) -> list[str]:
    """Which path composes the prompts of which methods, and why: a line a path."""
    methods: dict[tuple[str, str], dict[str, None]] = {}
    for run in (run for run in trainer.runs if not run.alone):
        methods.setdefault(path(run.shape, trainer.trunk.device), {})[run.config.method] = None
    return [f"prompts of {', '.join(of)} composed by {_PATHS[name]}: {why}" for (name, why), of in methods.items()]


def replaying(trainer: Trainer) -> list[str]:
    """Whether steps are replayed as CUDA graphs, or why some are not; nothing where no GPU is or nobody wants it."""
    together = [run for run in trainer.runs if not run.alone]
    on_cpu = trainer.graphs is None and trainer.trunk.device.type == "cpu"
    if on_cpu or not trainer.settings.cuda_graphs or not together:
        return []
    why = refused(trainer.trunk) or next((why for run in together if (why := eager(run.shape, run.config.distils))), "")
    return [f"steps are not replayed as CUDA graphs: {why}" if why else "steps are replayed as CUDA graphs"]


def halving(trainer: Trainer) -> list[str]:
    """Where runs are compared, and what becomes of the worse ones: a line where there is halving."""
    if not trainer.halves:
        return []
    settings = trainer.settings
    rungs = dict.fromkeys(tuple(rungs_of(settings, trainer.steps_of(run))) for run in trainer.runs)
    places = " or ".join(listed([str(step) for step in of]) for of in rungs)
    says = "once all have come there" if settings.halve == SYNCHRONOUS else "of those that have come there so far"
    return [
        f"halving: after {places} steps one run in {settings.halve_factor} goes on, {says}; the others are stopped, "
        "and steps and times are said as if none was"
    ]


def best_so_far(results: Sequence[RunResult]) -> RunResult | None:
    """The run that is best on its development sample, whether it has ended or was stopped; None where none has such a
    score.
    """
    judged = [(of.development["average"], -place) for place, of in enumerate(results) if of.development is not None]
    return results[-max(judged)[1]] if judged else None


def budget_spent(trainer: Trainer, resume: str) -> str:
    """What a job has come to that its budget has ended, and how it goes on."""
    finished = sum(result.status == "finished" for result in trainer.results.values())
    text = (
        f"the budget of {trainer.settings.budget} is spent: {finished} of {plural(len(trainer.runs), 'run')} finished"
    )
    best = best_so_far(trainer.ended)
    if best is not None and best.development is not None:
        where = f", after {plural(best.step, 'step')}" if best.step else ""
        text += f"; best on development so far {best.id} ({best.development['average']:.1f}{where})"
    return f"{text}; go on with a larger one: {resume} --budget ..."


def _span(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def print_search_plan(console: Console, trainer: Trainer, search: Search) -> None:
    """What is searched, how, and where it goes, in a few lines; of a job that goes on, how much is done."""
    settings, axes = trainer.settings, search.record.space.every_axis()
    done = f"; {plural(len(trainer.results), 'run')} done" if trainer.results else ""
    halved = f", halving ({settings.halve})" * trainer.halves
    lines = [
        f"search: {plural(search.most, 'trial')} ({settings.sampler}, seed {settings.search_seed}{halved}), "
        f"{settings.runs_at_once} side by side, then the best with {plural(search.confirm, 'fresh seed')}{done}",
        f"searched: {', '.join(axis.name for axis in axes)}",
        f"{plural(len(trainer.data.tasks), 'task')}: {', '.join(data.task.name for data in trainer.data.tasks)}",
        *foreign_words(trainer),
        f"run folder: {trainer.folder}",
    ]
    for line in lines:
        console.print(line, soft_wrap=True)


def print_search(console: Console, trainer: Trainer, record: Record) -> bool:
    """What a search has found, and the table of its best trial with fresh seeds; returns whether that has finished."""
    best = best_of(record.trials)
    states = Counter(trial.state for trial in record.trials)
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    console.print(f"{plural(len(record.trials), 'trial')}: {counts}", soft_wrap=True)
    console.print("none of them has finished" if best is None else f"best is {best.says}", soft_wrap=True)
    confirmed = [trainer.results[run] for run in record.confirming if run in trainer.results]
    whole = [result for result in confirmed if result.status == "finished"]
    if best is not None:
        print_scores(console, confirmed or [trainer.results[run] for run in best.runs])
    if whole:
        averages: dict[int, list[float]] = {}  # by seed, over the tasks of runs that were trained apart
        for result in whole:
            averages.setdefault(result.seed, []).append(result.average or 0.0)
        interval = Interval.of([statistics.fmean(of) for of in averages.values()])
        console.print(f"with {plural(len(averages), 'fresh seed')}: {interval} % in the test", soft_wrap=True)
    console.print(f"{duration(trainer.wall_seconds)}; search in {trainer.folder}/{RECORD}", soft_wrap=True)
    return best is not None and len(whole) == len(record.confirming)


def print_results(console: Console, trainer: Trainer) -> None:
    """The table of methods and tasks, how long it took, and where everything lies."""
    print_scores(console, trainer.ended)
    for note in off_label_notes(trainer.ended, trainer.runs, [data.task for data in trainer.data.tasks]):
        console.print(note, soft_wrap=True)
    if any(result.resumable for result in trainer.ended):
        resume = f"python -m compt_fast.train --resume {shlex.quote(str(trainer.folder))}"
        console.print(f"a run that was stopped is trained to its end by: {resume} --runs ID", soft_wrap=True)
    whole, earlier = trainer.wall_seconds, trainer.earlier_seconds
    took = duration(whole) + (
        f" with the job's earlier parts, {duration(whole - earlier)} of it now" if earlier else ""
    )
    console.print(f"{took}; results in {trainer.folder}/results.json and results.md", soft_wrap=True)
