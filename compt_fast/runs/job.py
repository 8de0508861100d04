"""A job: all that a run folder's flags stand for, opened and checked before the first step."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from compt_fast.config.flags import FLAGS, RUN_FLAGS, Flags, check_settings, merge_flags, typed
from compt_fast.config.run import RunConfig, settled
from compt_fast.models.api import Trunk, open_trunk
from compt_fast.tasks.chosen import resolve_tasks
from compt_fast.tasks.examples import JobData
from compt_fast.tasks.loaders import TaskData, check_read, load_task
from compt_fast.tasks.table import SUITES, Task
from compt_fast.training.identity import FREE, Identity
from compt_fast.training.plan import Run, keep_ids, plan_runs
from compt_fast.utils.environment import environment
from compt_fast.utils.errors import InputError
from compt_fast.utils.files import check_length, write_json
from compt_fast.utils.inputs import check_type, dataclass_from, read_object
from compt_fast.utils.names import check_name
from compt_fast.utils.words import plural

MINI_WEIGHTS = Path(__file__).parents[1] / "mini" / "weights"
FORMAT = 1


@dataclass(frozen=True)
class Job:
    """Tasks' rows, trunk and runs of one set of flags."""

    flags: Flags
    trunk: Trunk
    trunk_hash: str
    data: JobData
    runs: list[Run]

    @property
    def identity(self) -> Identity:
        """What tells its files from another job's."""
        return Identity(self.trunk_hash, self.flags, {run.id: run.config for run in self.runs})


Load = Callable[[Sequence[Task]], list[TaskData]]


def open_job(flags: Flags, *, folder: Path | None = None, trunk: Trunk | None = None, load: Load | None = None) -> Job:
    """Load and check data, trunk and plan.

    Runs that are recorded in the run folder `folder` keep their ids. `trunk` is what `flags` name,
    where it is open already. `load` gives the tasks other rows than those that `flags` name. Raises
    `InputError` for whatever is wrong with them.
    """
    tasks = resolve_tasks(
        flags["suite"],
        flags["tasks"],
        flags["include"],
        flags["exclude"],
        [Path(name) for name in flags["task_file"]],
    )
    loaded = (load or partial(_named_rows, flags))(tasks)
    if flags["tensorboard"] and find_spec("tensorboard") is None:
        raise InputError("--tensorboard needs the package tensorboard: pip install tensorboard")
    flags = flags | {"dtype": _dtype(flags), "source_tasks": _source_tasks(flags)}
    trunk = trunk or named_trunk(flags)
    runs = plan_runs(flags, tasks=[task.name for task in tasks], d_model=trunk.d_model)
    if folder is not None and (folder / "config.json").is_file():
        runs = keep_ids(runs, recorded_runs(folder))
    for run in runs:
        check_name(run.id, "a run")
    _check_lengths(flags, trunk, runs)
    rows = JobData(loaded, flags, trunk.tokenizer)
    for mode in dict.fromkeys(run.config.label_mode for run in runs):
        rows.check_labels(mode)
    return Job(flags, trunk, trunk.fingerprint(), rows, runs)


def _named_rows(flags: Flags, tasks: Sequence[Task]) -> list[TaskData]:
    """The rows of `tasks` that `flags` name."""
    root, data = (Path(flags[key]) if flags[key] else None for key in ("data_root", "data"))
    check_read(tasks, data_root=root, data=data)
    return [load_task(task, data_root=root, data=data, skip_empty=flags["skip_empty"]) for task in tasks]


def _source_tasks(flags: Flags) -> list[str] | None:
    """The source tasks by name, once each: a suite stands for its tasks."""
    if flags["source_tasks"] is None:
        return None
    names = dict.fromkeys(task for name in flags["source_tasks"] for task in SUITES.get(name, (name,)))
    files = [Path(name) for name in flags["task_file"]]
    resolve_tasks(None, list(names), [], [], files)  # each of them is known
    return list(names)


def trunk_hash(flags: Flags) -> str:
    """Fingerprint of the trunk that `flags` name, in their dtype."""
    return named_trunk(flags).fingerprint()


def _device(flags: Flags) -> str:
    device: str = flags["device"]
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this torch sees no GPU; use --device cpu")
    return device


def _dtype(flags: Flags) -> str:
    """The trunk's dtype; a job keeps it in `config.json`, as its prompts fit no other rounding."""
    if flags["dtype"] != "auto":
        return str(flags["dtype"])
    return "bf16" if _device(flags) == "cuda" else "fp32"


def named_trunk(flags: Flags) -> Trunk:
    """The trunk that `flags` name, opened; `InputError` where it cannot be."""
    trunk = open_trunk(
        flags["engine"],
        str(MINI_WEIGHTS) if flags["model"] == "mini" else flags["model"],
        dtype={"bf16": torch.bfloat16, "fp32": torch.float32}[_dtype(flags)],
        device=_device(flags),
        prompt_position=flags["prompt_position"],
    )
    trunk.name = flags["model"]  # "mini", not where this installation keeps it
    return trunk


def _check_lengths(flags: Flags, trunk: Trunk, runs: list[Run]) -> None:
    """Prompt and longest text together must fit the input that the trunk was trained for."""
    room, text = trunk.max_input_length, flags["max_source_length"]
    for run in runs:
        if run.shape.target_length + text > room:
            raise InputError(
                f"{run.id}: a target prompt of {run.shape.target_length} tokens and "
                f"--max-source-length {text} exceed the trunk's input of {room} tokens; "
                "lower --prompt-length or --max-source-length"
            )


def _recorded(folder: Path) -> dict[str, Any]:
    """The content of a run folder's `config.json`; `InputError` where it is none."""
    path = folder / "config.json"
    content = read_object(path, "the config.json of a run folder")
    for key in ("trunk", "flags", "runs"):
        check_type(content.get(key), dict, f"{path}: not the config.json of a run folder: {key}")
    check_type(content["trunk"].get("sha256"), str, f"{path}: trunk: sha256")
    merge_flags({}, check_settings(content["flags"], str(path)), str(path))  # names the one that is wrong
    try:
        names = [check_name(name, "a run") for name in content["runs"]]
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    content["runs"] = {
        name: settled(dataclass_from(RunConfig, content["runs"][name], f"{path}: runs: {name}")) for name in names
    }
    return content


def recorded_runs(folder: Path) -> dict[str, RunConfig]:
    """The configuration of every run of a run folder, by id; `InputError` for another folder."""
    runs: dict[str, RunConfig] = _recorded(folder)["runs"]
    return runs


def recorded_trunk(folder: Path) -> str:
    """The hash of the trunk that a run folder's job was trained on; `InputError` for another folder."""
    return str(_recorded(folder)["trunk"]["sha256"])


def recorded_identity(folder: Path) -> Identity:
    """What tells the files of a run folder's job from another's; `InputError` for another folder."""
    content = _recorded(folder)
    return Identity(content["trunk"]["sha256"], content["flags"], content["runs"])


def check_recorded(folder: Path, job: Job) -> None:
    """Raise `InputError` unless `job` is what a run folder's job began as, or more runs of it."""
    path, content = folder / "config.json", _recorded(folder)
    if content["trunk"]["sha256"] != job.trunk_hash:
        raise InputError(f"{path}: the trunk {job.trunk.name} is not the one that the job began with")
    for key, flag in FLAGS.items():
        began = content["flags"].get(key, flag.default)
        if key == "fit_length" and began is None:
            continue  # no run has been fitted yet
        if flag not in RUN_FLAGS and key not in FREE and began != job.flags[key]:
            raise InputError(
                f"{folder}: its job began {typed(flag, began)}, not {typed(flag, job.flags[key])}; only flags of runs "
                "may take more values, so name another folder"
            )
    planned = {run.id: run.config for run in job.runs}
    for name, config in content["runs"].items():
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
    if (folder / "config.json").is_file() and len(recorded_runs(folder)) == len(job.runs):
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
    """What `record_stored` noted of a job that is extended."""
    if not (folder / "config.json").is_file():
        return {}
    return {key: value for key, value in _recorded(folder).items() if key == "stored"}


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
    """Bytes of three checkpoints of the largest runs side by side, and of every run's prompts.

    Two checkpoints stay, and a third is whole before the first of them goes.
    """
    sizes = sorted((12 * run.parameters for run in job.runs), reverse=True)
    prompts = [4 * run.shape.tasks * run.shape.target_length * run.shape.d_model * 3 for run in job.runs]
    return 3 * sum(sizes[: job.flags["runs_at_once"]]) + sum(prompts)


def _config(job: Job, command: list[str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "command": command,
        "flags": job.flags | {"out": None},  # a job repeated from this file gets a folder of its own
        "trunk": {"name": job.trunk.name, "sha256": job.trunk_hash},
        "runs": {run.id: run.config.to_json() for run in job.runs},
        "environment": environment(),
    }
