"""Stage one of CrossPT (arXiv 2509.14253, section 2.1): the source prompts that a store lacks, each task's or, as SPoT
(arXiv 2110.07904) has it, one of all source tasks; or, as in Progressive Prompts (arXiv 2301.12314), each before those
of the tasks that it comes after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from compt_fast.config.fields import FULL
from compt_fast.config.flags import read_flags
from compt_fast.config.job import JOB_FLAGS, JobSettings, Sweep
from compt_fast.prompts.store import PromptStore, StoredPrompt
from compt_fast.runs.folder import SOURCES, stage_folders
from compt_fast.runs.initialisation import (
    Initialisation,
    Need,
    entries_of,
    entry_name,
    joint_entry_of,
    private_entry_of,
)
from compt_fast.runs.job import Job, open_job
from compt_fast.runs.results import read_results
from compt_fast.tasks.table import Task
from compt_fast.tasks.user import load_task_file
from compt_fast.training.results import RunResult
from compt_fast.utils.errors import InputError

SourceKind = tuple[int, str]
"""What jobs over source tasks differ in: prompt length and label mode."""
StageOneKind = tuple[int, str, tuple[str, ...], tuple[str, ...]]
"""And those of stage one: in the tasks that share one prompt, if they do, and those before whose prompts it is to
stand.
"""


def stage_one_settings(
    settings: JobSettings, lacking: Sequence[Need], defined: Sequence[Task] = ()
) -> dict[StageOneKind, JobSettings]:
    """The settings of the jobs, one a `StageOneKind`, that train what is lacking.

    Each task has a run of its own, so that its prompt does not depend on what else is trained: the
    preset `p` with its own settings, seed 0 and `source_examples` examples. One prompt of several tasks is trained
    likewise by the preset `mst`, and one before others by `progressive`, in jobs that follow each other. The papers
    name the method only; the rest is ours.
    """
    jobs = {}
    kinds = {need: _kind(need) for need in lacking}
    for kind in dict.fromkeys(kinds.values()):
        length, mode, joint, after = kind
        tasks = list(joint) or [need.task for need in lacking if kinds[need] == kind]
        method = "mst" if joint else "progressive" if after else "p"
        own = settings_of_sources(settings, method, (length, mode), tasks, defined)
        jobs[kind] = replace(
            own,
            apart=not joint,
            store=None,
            source_tasks=list(after) or None,  # else it starts from no stored prompts
            source_steps=None,
            fit_length=settings.fit_length if after else None,
        )
    return jobs


def _kind(need: Need) -> StageOneKind:
    return need.length, need.label_mode, need.tasks if need.others else (), need.after


def settings_of_sources(
    settings: JobSettings, method: str, kind: SourceKind, tasks: Sequence[str], defined: Sequence[Task]
) -> JobSettings:
    """The settings of a job before another with `settings`, which trains a method on its source tasks."""
    own_tasks = [task.name for task in (*(load_task_file(Path(name)) for name in settings.task_file), *defined)]
    length, mode = kind
    sweep = Sweep.of(
        method=[method],
        shots=[FULL],
        max_train=[settings.source_examples],
        steps=None if settings.source_steps is None else [settings.source_steps],
        prompt_length=[length],
        label_mode=[mode],
    )
    return replace(
        settings,
        sweep=sweep,
        suite=None,
        tasks=list(tasks),
        include=[],
        exclude=[task for task in own_tasks if task not in tasks],
        apart=None,
        select="last",
        search=None,
        **{flag.field: flag.default for flag in JOB_FLAGS.values() if flag.of_search},
        halve=None,  # each of its prompts is needed
        budget=None,
        out=None,
        source_tasks=None,  # it starts from no stored prompts
        shared_from=None,
        fit_length=None,
    )


def open_stage_one(folder: Path, job: Job, lacking: Sequence[Need]) -> list[tuple[Path, Job]]:
    """The jobs of stage one over the job's trunk, and the run folder of each in the job's `folder`.

    Raises `InputError` for whatever is wrong with the source tasks' data.
    """
    opened = []
    defined = job.memory.defined if job.memory else ()
    for kind, settings in stage_one_settings(job.settings, lacking, defined).items():
        length, mode, joint, after = kind
        beside = "-joint" if joint else f"-after{len(after)}" if after else ""
        own = folder_of(folder, f"{SOURCES}{beside}", (length, mode), settings)
        opened.append((own, open_job(settings, folder=own, trunk=job.trunk, memory=job.memory)))
    return opened


def folder_of(folder: Path, what: str, kind: SourceKind, settings: JobSettings) -> Path:
    """Where a job of stage one stands: one that is there where it was of these settings, else anew."""
    length, mode = kind
    name = f"{what}-m{length}" + (f"-{mode}" if mode != "natural" else "")
    number, own = 1, folder / name
    while (own / "config.json").is_file() and not _same(own, settings):
        number += 1
        own = folder / f"{name}-{number}"
    return own


def _same(folder: Path, settings: JobSettings) -> bool:
    began = read_flags({}, str(folder / "config.json"))
    free = {flag.field: getattr(settings, flag.field) for flag in JOB_FLAGS.values() if flag.free}
    return replace(began, **free) == settings


def keep(store: PromptStore, folder: Path, results: Sequence[RunResult]) -> None:
    """Put the prompts of a finished job of stage one into the store, those that it has not yet.

    Raises `InputError` where a source prompt could not be trained, or has another's place in the store.
    """
    for result in results:
        if result.status != "finished":
            raise InputError(f"{folder}: the source prompt of {result.id} could not be trained: {result.reason}")
    for result in results:
        for entry in _made(folder / "prompts" / result.id, result):
            store.keep(entry)


def _made(folder: Path, result: RunResult) -> list[StoredPrompt]:
    """What a run of stage one made, as entries of a store."""
    made = {"mst": joint_entry_of, "progressive": private_entry_of}
    return [made[result.method](folder)] if result.method in made else entries_of(folder)


def take_in(initialisation: Initialisation, folder: Path) -> None:
    """Let the store of a job have what it lacks and a finished stage one in the job's `folder` has trained, as
    where the job died in between, and no leftovers of that. Raises `InputError` as `keep` does.
    """
    initialisation.store.tidy()
    lacking = {entry_name(need, initialisation.setting) for need in initialisation.lacking()}
    for own in stage_folders(folder, [SOURCES]) if lacking else ():
        results = read_results(own) if (own / "results.json").is_file() else []
        if any(result.status != "finished" for result in results):
            continue
        for entry in [entry for result in results for entry in _made(own / "prompts" / result.id, result)]:
            if entry.name in lacking:
                initialisation.store.keep(entry)
    initialisation.refresh()
