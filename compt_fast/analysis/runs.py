"""Run folders as a report reads them: what has finished, under which settings, and what is missing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from compt_fast.analysis.formulas import Anatomy
from compt_fast.analysis.words import told_apart
from compt_fast.config.baselines import METHODS
from compt_fast.config.compositions import composed
from compt_fast.config.job import JOB_FLAGS, JobSettings
from compt_fast.config.presets import CHAIN, STORED
from compt_fast.config.run import RunConfig
from compt_fast.evaluation.evaluator import average
from compt_fast.prompts.shape import PromptShape
from compt_fast.runs.job import recorded_identity
from compt_fast.runs.masking import Way
from compt_fast.runs.results import read_results
from compt_fast.training.results import RunResult
from compt_fast.utils.errors import InputError, unknown
from compt_fast.utils.words import plural, short


@dataclass(frozen=True)
class Entry:
    """A finished run: where it lies, its configuration, its job's settings, its trunk's hash and its results.

    Runs that were trained apart, a task each, are one entry; `parts` are what it is made of. `by` names the
    scores by which it is held against others (`RANKINGS`).
    """

    folder: Path
    config: RunConfig
    job: JobSettings
    trunk: str
    result: RunResult
    parts: tuple[RunResult, ...]
    apart: bool = False
    by: str = "test"

    @property
    def id(self) -> str:
        """The run's id, unique within its folder."""
        return self.result.id

    @property
    def average(self) -> float:
        """Mean of the tasks' primary scores, percent."""
        assert self.result.average is not None
        return self.result.average

    @property
    def development(self) -> float | None:
        """Its average score on the development sample, percent, where one was measured."""
        found = [part.development["average"] for part in self.parts if part.development is not None]
        return statistics.fmean(found) if len(found) == len(self.parts) else None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks' names, in the order of every task axis."""
        return tuple(self.result.tasks)

    @property
    def sources_grow(self) -> bool:
        """Whether it has as many sources as tasks because its preset or its stored prompts say so."""
        if self.config.source_init == STORED:
            return not self.job.source_tasks
        return METHODS[self.config.method].one_source_a_task() and "sources" not in self.job.sweep.values

    @property
    def normaliser(self) -> str | None:
        """The normalisation that its router came to, `auto` resolved; None without a learned router."""
        config = self.config
        if not METHODS[config.method].mixes():
            return None
        shape = PromptShape(
            config.composition,
            1 if self.apart else len(self.tasks),
            config.sources,
            config.private,
            config.prompt_length,
            d_model=1,
            encoder="none",
            router=config.router,
            normalisation=config.normalisation,
        )
        return shape.normaliser if shape.has_router else None

    @property
    def prompts(self) -> Path:
        """The folder of its stored prompts; of runs that were trained apart, what tells them from others."""
        return self.folder / "prompts" / self.id

    @property
    def stored(self) -> tuple[Path, ...]:
        """The folders of its stored prompts, one a part; none where they are not there, or share no shape."""
        folders = tuple(self.folder / "prompts" / part.id for part in self.parts)
        # sources of parts are not the same ones
        alike = len(folders) == 1 or not composed(self.config.composition).has_sources
        return folders if alike and all((folder / "manifest.json").is_file() for folder in folders) else ()

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that decides its outcome, by name; lists as tuples."""
        job = {flag.field: getattr(self.job, flag.field) for flag in JOB_FLAGS.values() if flag.report}
        every = {**asdict(self.config), "apart": self.apart, "tasks": self.tasks, **job, "trunk": self.trunk}
        return {name: tuple(value) if isinstance(value, list) else value for name, value in every.items()}

    def score(self, task: str) -> float:
        """A task's primary score, percent."""
        found = self.result.tasks[task]
        return float(found["scores"][found["primary"]])

    def metric(self, task: str) -> str:
        """The name of a task's primary score."""
        return str(self.result.tasks[task]["primary"])


Masked = dict[str, dict[str, Any]]
"""By the name of a mask: `tasks` as in `results.json`, and their `average`."""


@dataclass(frozen=True)
class Material:
    """What a report is about: finished runs, the folders they lie in, and a line for all that is missing.

    `stores` are prompt stores, `names` what tells a reader each folder and store from the others,
    `portraits` the runs whose prompts are looked into, `anatomies` what was found in them, and `masked` what
    they score with prompts switched off in one `way`, both by a run's folder of prompts.
    """

    entries: list[Entry]
    folders: list[Path]
    missing: list[str]
    stores: list[Path] = field(default_factory=list)
    names: dict[Path, str] = field(default_factory=dict)
    portraits: list[Entry] = field(default_factory=list)
    anatomies: dict[Path, Anatomy | None] = field(default_factory=dict)
    masked: dict[Path, Masked] = field(default_factory=dict)
    way: Way = field(default_factory=Way)


def read_runs(named: Sequence[Path]) -> Material:
    """The runs of run folders, of folders of run folders, and prompt stores, as given on a command line.

    Runs that have not finished or were stopped become lines of `missing`; so does a run that stands
    in two folders, whose second copy is left out. Raises `InputError` that names a folder which
    holds no run, or the file that is damaged.
    """
    stores = list(dict.fromkeys(path.resolve() for path in named if is_store(path)))
    folders = [folder for path in named if not is_store(path) for folder in _run_folders(path)]
    folders = list(dict.fromkeys(folder.resolve() for folder in folders))
    names = told_apart([*folders, *stores])
    entries: list[Entry] = []
    missing: list[str] = []
    seen: dict[Any, Entry] = {}
    for folder in folders:
        for entry in _finished(folder, names[folder], missing):
            key = tuple(entry.settings.items())
            if key in seen:
                other = names[seen[key].folder]
                missing.append(f"{names[folder]}: {entry.id} is left out; {other} holds the same run")
            else:
                seen[key] = entry
                entries.append(entry)
    return Material(entries, folders, missing, stores, names)


def ranked_by(material: Material, by: str) -> Material:
    """The same with what leads and what is best decided by the scores that `by` names (`RANKINGS`).

    Raises `InputError` for a run that has none.
    """
    for entry in material.entries if by == "development" else []:
        if entry.development is None:
            raise InputError(
                f"{material.names[entry.folder]}: {entry.id} has no development score to rank by; train with --select "
                "best, or take --rank-by test"
            )
    return replace(material, entries=[replace(entry, by=by) for entry in material.entries])


def is_store(path: Path) -> bool:
    """Whether a folder is a prompt store."""
    return not (path / "config.json").is_file() and any(path.glob("*/prompt.safetensors"))


def _run_folders(path: Path) -> list[Path]:
    if (path / "config.json").is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; name run folders of compt_fast.train")
    inside = sorted(file.parent for file in path.glob("*/config.json"))
    if not inside:
        raise InputError(f"{path}: no run folder (it has no config.json), nor a folder of run folders")
    return inside


def _finished(folder: Path, called: str, missing: list[str]) -> list[Entry]:
    """The finished runs of a folder; a line of `missing` for what is not, under what the folder is `called`."""
    recorded = recorded_identity(folder)
    configs, trunk = recorded.runs, recorded.trunk_hash
    results = {}
    if (folder / "results.json").exists():
        results = {result.id: result for result in read_results(folder)}
    else:
        missing.append(f"{called}: no results.json; of its {plural(len(configs), 'run')} none has been scored")
    entries = []
    open_runs: list[str] = []
    early: list[str] = []
    for name, config in configs.items():
        result = results.get(name)
        if result is not None and result.status == "finished":
            entries.append(Entry(folder, config, recorded.settings, trunk, result, (result,), config.task is not None))
        elif result is not None and result.resumable:
            early.append(name)
        elif result is not None and result.status == "stopped":
            missing.append(f"{called}: {name} was stopped: {result.reason}")
        elif results:
            open_runs.append(name)
    if early:
        missing.append(
            f"{called}: {plural(len(early), 'run')} stopped early, of which no table counts any: results.md in it says "
            f"why, and --resume {folder} --runs ID trains one to its end"
        )
    if open_runs:
        those = ", ".join(open_runs[:6]) + (", ..." if len(open_runs) > 6 else "")
        resume = f"python -m compt_fast.train --resume {folder}"
        have = "has" if len(open_runs) == 1 else "have"
        missing.append(
            f"{called}: {len(open_runs)} of {plural(len(configs), 'run')} {have} not finished: {those} (go on with: "
            f"{resume})"
        )
    return _together(entries)


def _together(entries: list[Entry]) -> list[Entry]:
    """Runs of one setting and seed that were trained apart, a task each, as one entry."""
    merged: dict[tuple[RunConfig, bool], Entry] = {}
    for entry in entries:
        config = replace(entry.config, task=None)
        if config.source_init == CHAIN:  # as many sources as tasks come before
            config = replace(config, sources=0)
        before = merged.get((config, entry.apart))
        if before is None:
            merged[config, entry.apart] = replace(entry, config=config)
            continue
        tasks = before.result.tasks | entry.result.tasks
        whole = replace(before.result, id=before.result.group, tasks=tasks, average=average(tasks))
        merged[config, entry.apart] = replace(before, result=whole, parts=(*before.parts, entry.result))
    return list(merged.values())


def portraits(entries: Sequence[Entry], only: Sequence[str] | None) -> list[Entry]:
    """The runs whose prompts are looked into: those that `only` names, else one a setting.

    That is, for each folder, method, number of sources, router, gates and label words, the first
    run (the lowest seed that was given first) of the most shots; prompts of different seeds have
    nothing to do with each other, so that no mean over seeds is taken. Raises `InputError` for a
    name that is no finished run with stored prompts.
    """
    stored = [entry for entry in entries if entry.stored]
    if only is not None:
        for name in only:
            if name not in [entry.id for entry in stored]:
                raise unknown("run", name, [entry.id for entry in stored])
        return [entry for entry in stored if entry.id in only]
    chosen: dict[Any, Entry] = {}
    for entry in stored:
        config = entry.config
        key = (entry.folder, config.method, config.sources, config.router, config.gates, config.label_mode)
        if key not in chosen or many(config.shots) > many(chosen[key].config.shots):
            chosen[key] = entry
    return list(chosen.values())


def many(shots: int | None) -> float:
    """A number of shots to sort by: all examples (None) are the most."""
    return math.inf if shots is None else shots


def suite_name(job: JobSettings) -> str:
    """What the tasks of a job are called: the suite and what was added or left out, or the tasks."""
    name = job.suite or (", ".join(job.tasks) if job.tasks else "mini")
    if job.task_file and not job.suite and not job.tasks:
        name = "own tasks"
    added = "".join(f" + {task}" for task in job.include)
    return name + added + "".join(f" without {task}" for task in job.exclude)


def metric_of(entry: Entry) -> str:
    """What the average of a run's scores is made of, in words: 'accuracy; Spearman for stsb'."""
    by_metric: dict[str, list[str]] = {}
    for task, name in zip(entry.tasks, short(entry.tasks), strict=True):
        by_metric.setdefault(entry.metric(task), []).append(name)
    most = max(by_metric, key=lambda metric: len(by_metric[metric]))
    others = [f"{metric} for {', '.join(tasks)}" for metric, tasks in by_metric.items() if metric != most]
    return "; ".join([most, *others])
