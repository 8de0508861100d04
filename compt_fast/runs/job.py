"""A job: all that a run folder's settings stand for, opened and checked before the first step."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch

from compt_fast.baselines.making import counted
from compt_fast.config.choices import HALVINGS, INT8
from compt_fast.config.flags import check_settings, merge_flags, typed
from compt_fast.config.job import JOB_FLAGS, JobSettings
from compt_fast.config.resolve import settled
from compt_fast.config.run import RunConfig
from compt_fast.models.api import Trunk, open_trunk
from compt_fast.models.base import NO_HIDDEN
from compt_fast.prompts.parameters import check_vocabulary, mixing_parameters
from compt_fast.tasks.chosen import resolve_tasks
from compt_fast.tasks.examples import JobData
from compt_fast.tasks.formats import Columns
from compt_fast.tasks.loaders import TaskData, check_read, load_task, task_of
from compt_fast.tasks.table import SUITES, Task
from compt_fast.training.identity import Identity
from compt_fast.training.plan import Run, bytes_at_once, keep_ids, plan_runs, planned_as
from compt_fast.training.trackers import check_trackers
from compt_fast.utils.environment import cpu, environment
from compt_fast.utils.errors import InputError
from compt_fast.utils.files import check_length, write_json
from compt_fast.utils.inputs import check_type, dataclass_from, read_object
from compt_fast.utils.names import check_name
from compt_fast.utils.words import plural

MINI_WEIGHTS = Path(__file__).parents[1] / "mini" / "weights"
FORMAT = 1
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class InMemory:
    """Rows of some tasks that a program hands over, to train on and to be scored on, by the task's name; `defined` are
    those of the tasks that are the user's own, and `sha256` hashes of the rows, by which they are known again.
    """

    rows: Mapping[str, tuple[Columns, Columns]]
    defined: Sequence[Task]
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class Job:
    """Tasks' rows, trunk and runs of a job's settings."""

    settings: JobSettings
    trunk: Trunk
    trunk_hash: str
    data: JobData
    runs: list[Run]
    memory: InMemory | None = None

    @property
    def identity(self) -> Identity:
        """What tells its files from another job's."""
        return Identity.of(self.trunk_hash, self.settings, self.runs)


Load = Callable[[Sequence[Task]], list[TaskData]]


def open_job(
    settings: JobSettings,
    *,
    folder: Path | None = None,
    trunk: Trunk | None = None,
    load: Load | None = None,
    memory: InMemory | None = None,
    made_of: str | None = None,
) -> Job:
    """Load and check data, trunk and plan.

    Runs that are recorded in the run folder `folder` keep their ids. `trunk` is what `settings` name,
    where it is open already. `load` gives the tasks other rows than those that `settings` name, and `memory` gives
    such to some of them; `made_of` is as for `named_trunk`. Raises `InputError` for whatever is wrong with them.
    """
    check_int8(settings, made_of)
    if folder is not None and memory is None and load is None:
        _check_at_hand(folder)
    files, defined = [Path(name) for name in settings.task_file], memory.defined if memory else ()
    tasks = resolve_tasks(settings.suite, settings.tasks, settings.include, settings.exclude, files, defined)
    loaded = (load or partial(_named_rows, settings, memory))(tasks)
    check_trackers(settings.track)
    settings = replace(settings, dtype=settled_dtype(settings), source_tasks=_named_source_tasks(settings, defined))
    trunk = trunk or named_trunk(settings, made_of)
    names = [task.name for task in tasks]
    # The runs of a search are all added as it goes.
    runs = [] if settings.search else plan_runs(settings, tasks=names, d_model=trunk.d_model)
    if folder is not None and (folder / "config.json").is_file():
        recorded = recorded_identity(folder).runs
        runs = keep_ids(runs, recorded)
        configs = {run.config for run in runs}
        more = {name: recorded[name] for name in _added(folder) if name in recorded}
        sizes = {"tasks": len(tasks), "d_model": trunk.d_model}
        runs += [planned_as(name, config, **sizes) for name, config in more.items() if config not in configs]
    if made_of is None:  # else prompts are scored, of which no baseline has any
        runs = counted(runs, trunk, settings.engine)
    rows = JobData(loaded, settings, trunk.tokenizer)
    check_runs(runs, settings, trunk, rows)
    return Job(settings, trunk, trunk.fingerprint(), rows, runs, memory)


def check_runs(runs: Sequence[Run], settings: JobSettings, trunk: Trunk, rows: JobData) -> None:
    """Raise `InputError` for a run that a job with these settings, over this trunk and on these rows, cannot train."""
    for run in runs:
        check_name(run.id, "a run")
    _check_lengths(settings, trunk, runs)
    for run in runs:
        check_vocabulary(run.shape, run.config.init, len(trunk.embedding))
    if not trunk.compares_hidden and any(run.config.distil_hidden for run in runs):
        raise InputError(NO_HIDDEN)
    for mode in dict.fromkeys(run.config.label_mode for run in runs):
        rows.check_labels(mode)


def _named_rows(settings: JobSettings, memory: InMemory | None, tasks: Sequence[Task]) -> list[TaskData]:
    """The rows of `tasks` that are in memory, or else those that the settings name."""
    root, data = (Path(place) if place else None for place in (settings.data_root, settings.data))
    given = memory.rows if memory else {}
    check_read([task for task in tasks if task.name not in given] or tasks, data_root=root, data=data)
    return [
        task_of(task, *given[task.name], skip_empty=settings.skip_empty)
        if task.name in given
        else load_task(task, data_root=root, data=data, skip_empty=settings.skip_empty)
        for task in tasks
    ]


def _rows_in_memory(folder: Path) -> dict[str, str]:
    """The hashes of the rows in memory that the job of a folder began with, by task."""
    path = folder / "config.json"
    content = read_object(path, "the config.json of a run folder") if path.is_file() else {}
    check_type(content.get("rows_in_memory", {}), dict, f"{path}: rows_in_memory")
    return content.get("rows_in_memory", {})


def _check_at_hand(folder: Path) -> None:
    """Raise `InputError` where a job's rows were handed over by a program and are in no file."""
    if names := _rows_in_memory(folder):
        raise InputError(
            f"{folder}: the rows of {', '.join(names)} were handed over to compt_fast.fit and stand in no file: go on "
            f"with compt_fast.fit(data, resume={str(folder)!r}) and the same rows"
        )


def _named_source_tasks(settings: JobSettings, defined: Sequence[Task]) -> list[str] | None:
    """The source tasks by name, once each: a suite stands for its tasks."""
    if settings.source_tasks is None:
        return None
    names = dict.fromkeys(task for name in settings.source_tasks for task in SUITES.get(name, (name,)))
    files = [Path(name) for name in settings.task_file]
    resolve_tasks(None, list(names), [], [], files, defined)  # each of them is known
    return list(names)


def fingerprint_of(settings: JobSettings) -> str:
    """Fingerprint of the trunk that the settings name, in their dtype."""
    return named_trunk(settings).fingerprint()


def _device(settings: JobSettings) -> str:
    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this torch sees no GPU; use --device cpu")
    return settings.device


def check_int8(settings: JobSettings, made_of: str | None) -> None:
    """Raise `InputError` for int8 where nothing says what it is `made_of`: there prompts are trained, or stored."""
    if settings.dtype == INT8 and made_of not in DTYPES:
        raise InputError("--dtype int8 scores and predicts with prompts that are trained; train them in fp32 or bf16")


def settled_dtype(settings: JobSettings) -> str:
    """The trunk's dtype; a job keeps it in `config.json`, as its prompts fit no other rounding.

    In place of int8, where the processor has no instructions for it, bf16, or fp32 where it has none for that either:
    a line on standard error says so.
    """
    if settings.dtype == INT8 and _device(settings) == "cpu":
        processor = cpu()
        if processor["int8"] is not None:
            return INT8
        instead = "fp32" if processor["bf16"] is None else "bf16"
        print(f"--dtype int8: this processor has no VNNI instructions; computing in {instead}", file=sys.stderr)
        return instead
    if settings.dtype != "auto":
        return settings.dtype
    return "bf16" if _device(settings) == "cuda" else "fp32"


def checkpoint_of(model: str) -> str:
    """The folder or the hub's name of the trunk that is called `model`."""
    return str(MINI_WEIGHTS) if model == "mini" else model


def named_trunk(settings: JobSettings, made_of: str | None = None) -> Trunk:
    """The trunk that the settings name, opened; `InputError` where it cannot be.

    One in int8 is rounded from the precision `made_of`, "fp32" or "bf16", in which its prompts were trained, and keeps
    that one's fingerprint.
    """
    check_int8(settings, made_of)
    dtype = settled_dtype(settings)
    trunk = open_trunk(
        settings.engine,
        checkpoint_of(settings.model),
        dtype=DTYPES[made_of if made_of and dtype == INT8 else dtype],
        device=_device(settings),
        prompt_position=settings.prompt_position,
    )
    if dtype == INT8:
        trunk.quantise()
    trunk.name = settings.model  # "mini", not where this installation keeps it
    return trunk


def _check_lengths(settings: JobSettings, trunk: Trunk, runs: Sequence[Run]) -> None:
    """Prompt and longest text together must fit the input that the trunk was trained for."""
    room, text = trunk.max_input_length, settings.max_source_length
    for run in runs:
        if run.shape.target_length + text > room:
            raise InputError(
                f"{run.id}: a target prompt of {run.shape.target_length} tokens and "
                f"--max-source-length {text} exceed the trunk's input of {room} tokens; "
                "lower --prompt-length or --max-source-length"
            )


def recorded_identity(folder: Path) -> Identity:
    """Trunk, settings and runs of a run folder's job, as in its `config.json`; `InputError` for another folder."""
    path = folder / "config.json"
    content = read_object(path, "the config.json of a run folder")
    for key in ("trunk", "flags", "runs"):
        check_type(content.get(key), dict, f"{path}: not the config.json of a run folder: {key}")
    check_type(content["trunk"].get("sha256"), str, f"{path}: trunk: sha256")
    settings = merge_flags({}, check_settings(content["flags"], str(path)), str(path))
    try:
        names = [check_name(name, "a run") for name in content["runs"]]
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    runs = {name: settled(dataclass_from(RunConfig, content["runs"][name], f"{path}: runs: {name}")) for name in names}
    return Identity(content["trunk"]["sha256"], settings, runs)


def check_recorded(folder: Path, job: Job) -> None:
    """Raise `InputError` unless `job` is what a run folder's job began as, or more runs of it."""
    path, recorded = folder / "config.json", recorded_identity(folder)
    if recorded.trunk_hash != job.trunk_hash:
        raise InputError(f"{path}: the trunk {job.trunk.name} is not the one that the job began with")
    settings = recorded.settings
    if settings.fit_length is None:  # no run has been fitted yet
        settings = replace(settings, fit_length=job.settings.fit_length)
    for flag in JOB_FLAGS.values():
        began, now = (getattr(of, flag.field) for of in (settings, job.settings))
        if began != now and not flag.free:
            raise InputError(
                f"{folder}: its job began {typed(flag, began)}, not {typed(flag, now)}; only flags of runs may take "
                "more values, so name another folder"
            )
    mine = job.memory.sha256 if job.memory else {}
    for name, digest in _rows_in_memory(folder).items():
        if mine.get(name) != digest:
            raise InputError(
                f"{folder}: its job began with other rows of {name}: hand over the same, in the same order"
            )
    planned = {run.id: run.config for run in job.runs}
    for name, config in recorded.runs.items():
        if planned.get(name) != config:
            raise InputError(
                f"{path}: the job began with the run {name}, which is not among the {plural(len(planned), 'run')} that "
                "the flags mean now; give its values too, beside further ones, or name another folder"
            )


def prepare_folder(folder: Path, job: Job, command: list[str]) -> None:
    """Make the run folder, see that what the job will write fits, and write `config.json`, unless
    one of the same runs is there.

    Raises `InputError` for a folder that cannot be written or a disk without room.
    """
    if (folder / "config.json").is_file() and len(recorded_identity(folder).runs) == len(job.runs):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for run in job.runs:
            check_length(folder / run.id)
            check_length(folder / "prompts" / run.id / "prompts.safetensors")
        need, free = disk_need(job), shutil.disk_usage(folder).free
        if need > free:
            raise InputError(
                f"--out {folder}: the job may need {need / 2**20:,.0f} MiB and the disk has "
                f"{free / 2**20:,.0f}; lower --runs-at-once or name a folder on another disk"
            )
        write_json(folder / "config.json", _config(job, command) | _stored_before(folder))
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written ({error.strerror})") from None


def _stored_before(folder: Path) -> dict[str, Any]:
    """What `record_stored` and `record_added` noted of a job that is extended."""
    if not (folder / "config.json").is_file():
        return {}
    content = read_object(folder / "config.json", "the config.json of a run folder")
    return {key: value for key, value in content.items() if key in ("stored", "added", "space")}


def _added(folder: Path) -> list[str]:
    """The runs of a folder's job that its flags do not mean, by id: those that were added as it went."""
    path = folder / "config.json"
    added = read_object(path, "the config.json of a run folder").get("added", [])
    check_type(added, list, f"{path}: added")
    return [check_name(name, f"a run, in {path}: added") for name in added]


def record_added(folder: Path, runs: Sequence[Run]) -> None:
    """Note in `config.json` runs that are added to the job as it goes, so that it knows them when it goes on."""
    path = folder / "config.json"
    content = read_object(path, "the config.json of a run folder")
    check_type(content.get("runs"), dict, f"{path}: runs")
    configs = {run.id: run.config.to_json() for run in runs}
    added = [*_added(folder), *configs]
    try:
        write_json(path, content | {"runs": content["runs"] | configs, "added": added})
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def record_deciding(folder: Path, settings: JobSettings) -> None:
    """Note in `config.json` what decides now which runs go on, so that a job that is killed goes on as decided."""
    path = folder / "config.json"
    content, now = read_object(path, "the config.json of a run folder"), settings.to_json()
    flags = content["flags"] | {key: now[key] for key, flag in JOB_FLAGS.items() if flag.decides}
    if flags != content["flags"]:
        write_json(path, content | {"flags": flags})


def record_stored(folder: Path, stored: dict[str, str]) -> None:
    """Note in `config.json` the hashes of the `stored` prompts, by name, that the runs start from.

    Raises `InputError` where one that was noted before has other values now.
    """
    path = folder / "config.json"
    content = read_object(path, "the config.json of a run folder")
    before = content.get("stored", {})
    check_type(before, dict, f"{path}: stored")
    for name, digest in before.items():
        if stored.get(name, digest) != digest:
            raise InputError(
                f"{folder}: the stored prompt {name} has changed since the job began (sha256 {stored[name]}, not "
                f"{digest}); name another folder"
            )
    if before == before | stored:
        return
    try:
        write_json(path, content | {"stored": before | stored})
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def disk_need(job: Job) -> int:
    """Bytes of three checkpoints of the largest runs side by side, and of every run's prompts; with halving what every
    run needs to go on, too.

    Two checkpoints stay, and a third is whole before the first of them goes.
    """
    prompts = [4 * run.shape.tasks * run.shape.target_length * run.shape.d_model * 3 for run in job.runs]
    beside = [4 * prod(one.size) for run in job.runs for one in mixing_parameters(run.shape).values()]
    halted = sum(12 * run.parameters for run in job.runs) if job.settings.halve in HALVINGS else 0
    return 3 * bytes_at_once(job.runs, job.settings.runs_at_once) + sum(prompts) + sum(beside) + halted


def _config(job: Job, command: list[str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "command": command,
        "flags": job.settings.to_json() | {"out": None},  # a job repeated from this file gets a folder of its own
        "trunk": {"name": job.trunk.name, "sha256": job.trunk_hash},
        "runs": {run.id: run.config.to_json() for run in job.runs},
        "environment": environment(),
        **({"rows_in_memory": dict(job.memory.sha256)} if job.memory else {}),
    }
