"""A job from its settings to its results: opened and checked, stage one where its store lacks prompts, then its runs,
each from the latest checkpoint.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from safetensors import SafetensorError

from compt_fast import native
from compt_fast.config.job import JobSettings
from compt_fast.prompts.store import PromptStore
from compt_fast.runs.adding import Adding
from compt_fast.runs.alone import alone
from compt_fast.runs.folder import claimed
from compt_fast.runs.initialisation import Initialisation
from compt_fast.runs.job import (
    InMemory,
    Job,
    check_recorded,
    open_job,
    prepare_folder,
    record_added,
    record_deciding,
    record_stored,
)
from compt_fast.runs.scales import note_scales
from compt_fast.runs.searching import check_trials, look_ahead, open_space, record_search, search_of
from compt_fast.runs.shared import SharedPrompts
from compt_fast.runs.stage_one import keep, open_stage_one, take_in
from compt_fast.runs.steering import Steering
from compt_fast.runs.summary import budget_spent, print_results, print_search
from compt_fast.training.budget import Spending, TakingUp
from compt_fast.training.checkpoint import Checkpoint, load_latest
from compt_fast.training.control import Control, Together
from compt_fast.training.halving import Halving, check_halving
from compt_fast.training.interrupts import Interrupted, Interrupts
from compt_fast.training.loop import Trainer
from compt_fast.training.monitor import Monitor
from compt_fast.training.tracking import Tracking
from compt_fast.utils.errors import FIRST_SIGNAL, InputError, out_of_memory
from compt_fast.utils.output import OutputError, complain

if TYPE_CHECKING:
    from compt_fast.search.control import Search

Drive = Callable[[Trainer, Monitor, Interrupts], None]
"""What trains the runs of a trainer to their end, as `Trainer.train` does: this process, or others for it."""


@dataclass(frozen=True)
class Stage:
    """A job, the checkpoint that it goes on from (None: it begins), its trainer, which knows what that holds, the
    stored prompts that its runs start from or learn from, and those of its stopped runs that are `resumed`. Of a
    `search` that is one of its trainer's controls.
    """

    job: Job
    saved: Checkpoint | None
    trainer: Trainer
    initialisation: Initialisation
    search: Search | None = None
    resumed: Sequence[str] = ()


@dataclass(frozen=True)
class Pipeline:
    """A job and what it begins with: all is opened and checked, and nothing is written.

    `stage_one` trains what the `store` lacks, one job after another, `sharing` then the prompts that source tasks
    share, and `stage_two` what was asked for, of a search trials of its `space`.
    """

    folder: Path
    store: PromptStore
    stage_one: Sequence[Stage]
    sharing: Sequence[Stage]
    stage_two: Stage


def prepare(
    folder: Path,
    settings: JobSettings,
    *,
    writing: bool,
    memory: InMemory | None = None,
    resumed: Sequence[str] = (),
) -> Pipeline:
    """Open the job of `folder`, new or to go on with; raises `InputError` for whatever is wrong with it.

    `memory` gives some tasks rows beside those that the settings name. With `writing`, what a stage one before had
    finished goes into the store; else nothing is written. Runs that were stopped and are to be `resumed` are trained to
    their ends.
    """
    native.keep_quiet()  # of a build that fails the plan tells
    job = open_job(settings, folder=folder, memory=memory)
    saved = _latest(folder, job)
    done = saved.state["results"] if saved else {}
    store = PromptStore(Path(settings.store or folder / "store"))
    space = open_space(folder, settings)
    ahead = [] if space is None else look_ahead(job, space)
    left = [run for run in job.runs if run.id not in done or "step" in done[run.id]] + ahead
    shared = SharedPrompts(folder, job, store, left)
    initialisation = Initialisation(job, store, left, shared)
    begun = [(own_folder, own_job, _latest(own_folder, own_job)) for own_folder, own_job in shared.jobs.values()]
    sharing = [
        _stage(own_folder, own_job, Initialisation(own_job, store, own_job.runs), before)
        for own_folder, own_job, before in begun
        if before is None or len(before.state["results"]) < len(own_job.runs)  # what is done needs no teachers
    ]
    wanting = [initialisation, *(stage.initialisation for stage in sharing)]
    if writing:
        for each in wanting:
            take_in(each, folder)
    lacking = dict.fromkeys(need for each in wanting for need in each.lacking())
    stage_one = []
    for own_folder, own_job in open_stage_one(folder, job, list(lacking)):
        starts = Initialisation(own_job, store, own_job.runs)
        stage_one.append(_stage(own_folder, own_job, starts, _latest(own_folder, own_job)))
    last = _stage(folder, job, initialisation, saved)
    trainer, adding, halving = last.trainer, Adding(job, initialisation), Halving()
    spending = Spending()
    controls: list[Control] = [Steering(folder=folder, adding=adding), TakingUp(spending=spending), halving, spending]
    search = None
    if space is None:
        check_halving(settings, job.runs, {run.id: trainer.steps_of(run) for run in job.runs})
    else:
        check_trials(trainer, ahead)
        search = search_of(adding, space, halving)
        controls.append(search)
    trainer.control = Together(controls)
    for name in resumed:
        trainer.resume(name)
    return Pipeline(folder, store, stage_one, sharing, replace(last, resumed=resumed, search=search))


def conduct(pipeline: Pipeline, command: list[str], console: Console, drive: Drive = Trainer.train) -> int:
    """Train what a job lacks: the source prompts that its store has not, then its runs; prints what came of each.

    The folder is made, or extended, by the `command` that `config.json` is to name, and `drive` trains. Returns 0
    where all runs have finished or can go on, 1 where some were not finite, and `FIRST_SIGNAL` or more after a signal.
    """
    folder, last = pipeline.folder, pipeline.stage_two
    prepare_folder(folder, last.job, command)
    record_deciding(folder, last.job.settings)
    if last.search is not None:
        record_search(folder, last.search.record.space.content, last.job.settings)
    if last.saved is None:
        last.trainer.write_results()
    for stage in (*pipeline.stage_one, *pipeline.sharing):
        own = stage.trainer.folder
        stage.initialisation.refresh()
        with nullcontext() if own.exists() else claimed(own):  # with the job's folder the old ones are
            prepare_folder(own, stage.job, command)
            record_stored(own, stage.initialisation.used())
            code = _train(stage, folder, console, drive)
        if code >= FIRST_SIGNAL:
            return code
        if stage in pipeline.stage_one:
            keep(pipeline.store, own, stage.trainer.ended)
        elif code:
            raise InputError(f"{own}: the shared prompt could not be trained: {stage.trainer.ended[0].reason}")
    last.initialisation.refresh()
    record_stored(folder, last.initialisation.used())
    return _train(last, folder, console, drive)


def _latest(folder: Path, job: Job) -> Checkpoint | None:
    """The latest whole checkpoint of a job in its folder, None before the first; `InputError` where the
    folder is another job's, or prompts of a run that had ended are gone.
    """
    if not (folder / "config.json").is_file():
        return None
    check_recorded(folder, job)
    saved = load_latest(folder / "checkpoints", job.identity)
    if saved is not None and saved.damaged:
        complain(f"note: {saved.damaged}; going on from {saved.path.name}, the one before it")
    prompted = {run.id for run in job.runs if not run.alone}
    for name, result in saved.state["results"].items() if saved else ():
        if name not in prompted:
            continue
        parts = [folder / "prompts" / name / part for part in ("manifest.json", "prompts.safetensors")]
        gone = [part for part in parts if not part.is_file()] if result["status"] == "finished" else []
        if gone:
            raise InputError(
                f"{gone[0]}: not there, though its run has ended, and no checkpoint holds it any more: put back a "
                f"copy, or remove {folder / 'checkpoints'} and the job trains all its runs again"
            )
    return saved


def _stage(folder: Path, job: Job, starts: Initialisation, saved: Checkpoint | None) -> Stage:
    """A job with its trainer, that knows what was done by a checkpoint."""
    made = Trainer(
        job.runs,
        job.trunk,
        job.trunk_hash,
        job.data,
        job.settings,
        folder,
        start=starts.of,
        seen=starts.seen,
        teachers=starts.teachers,
        alone=partial(alone, job),
        record=partial(record_added, folder),
    )
    if saved is not None:
        made.note_results(saved)
    return Stage(job, saved, made, starts)


def _train(stage: Stage, job_folder: Path, console: Console, drive: Drive) -> int:
    """Train, score and report; the checkpoint left behind tells what was done, whatever ends it.

    `job_folder` is what `--resume` takes to go on, which is not the trainer's own in stage one.
    """
    trainer, saved = stage.trainer, stage.saved
    resume = f"python -m compt_fast.train --resume {shlex.quote(str(job_folder))}"
    if stage.job.memory is not None:
        resume = f"compt_fast.fit(data, resume={str(job_folder)!r})"
    own = trainer.folder.name if trainer.folder != job_folder else ""
    tracking = Tracking(job_folder, trainer.settings, trainer.run_of, own, dict(trainer.begun))
    try:
        with Monitor(trainer.folder, trainer.steps_to_come, console, tracking) as monitor:
            if saved is not None:
                trainer.restore(monitor, saved)
                for name in stage.resumed:
                    trainer.resume(name)
            else:
                note_scales(trainer.trunk, trainer.runs)
                monitor.rewind(0, 0)
            trainer.write_results()
            interrupted = _to_the_end(trainer, monitor, drive)
    except OutputError:
        complain(f"the output cannot be written any more; at step {trainer.step}, go on with: {resume}")
        raise
    except (OSError, SafetensorError) as error:
        raise InputError(f"{trainer.folder}: writing failed at step {trainer.step}: {error}") from None
    if interrupted:
        complain(f"interrupted at step {trainer.step}; go on with: {resume}")
        return FIRST_SIGNAL + interrupted
    if trainer.trunk.fingerprint() != trainer.trunk_hash:
        raise RuntimeError("a weight of the frozen trunk has changed during training: its results are void")
    whole = all(result.status == "finished" or result.resumable for result in trainer.ended)
    if stage.search is None:
        print_results(console, trainer)
    else:
        whole = print_search(console, trainer, stage.search.record) or (trainer.closed and whole)
    if trainer.closed:
        console.print(budget_spent(trainer, resume), soft_wrap=True)
    return 0 if whole else 1


def _to_the_end(trainer: Trainer, monitor: Monitor, drive: Drive) -> int:
    """Train to the end; returns the number of the signal that came before it, else 0."""
    try:
        with Interrupts() as interrupts:
            drive(trainer, monitor, interrupts)
    except Interrupted as interrupted:
        trainer.save(monitor)
        trainer.write_results()
        return interrupted.signal
    except OutputError:
        if not trainer.midway:
            trainer.save(monitor)
            trainer.write_results()
        raise
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        if not trainer.midway:
            trainer.save(monitor)
        left = "the checkpoint before it, if any, is left" if trainer.midway else "a checkpoint is left"
        raise InputError(
            f"out of memory at step {trainer.step}: begin again with a lower --runs-at-once, "
            f"--batch-size, --max-source-length or --eval-batch-size; {left} for a --resume where "
            "there is more memory"
        ) from None
    return 0
