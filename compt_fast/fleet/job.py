"""A job: all that a run folder's flags stand for, opened and checked before the first step."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from compt_fast.errors import InputError
from compt_fast.files import write_json
from compt_fast.flags import Flags
from compt_fast.fleet.data import JobData
from compt_fast.fleet.plan import Run, plan_runs
from compt_fast.info import environment
from compt_fast.tasks.sources import load_task
from compt_fast.tasks.table import resolve_tasks
from compt_fast.trunk.seam import Trunk, open_trunk

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


def open_job(flags: Flags) -> Job:
    """Load and check data, trunk and plan.

    Raises `InputError` for whatever is wrong with them.
    """
    tasks = resolve_tasks(
        flags["suite"],
        flags["tasks"],
        flags["include"],
        flags["exclude"],
        [Path(name) for name in flags["task_file"]],
    )
    root, folder = (Path(flags[key]) if flags[key] else None for key in ("data_root", "data"))
    loaded = [load_task(task, data_root=root, data=folder) for task in tasks]
    if flags["tensorboard"] and find_spec("tensorboard") is None:
        raise InputError("--tensorboard needs the package tensorboard: pip install tensorboard")
    flags = flags | {"dtype": _dtype(flags)}
    trunk = _open_trunk(flags)
    runs = plan_runs(flags, tasks=len(tasks), d_model=trunk.d_model)
    _check_lengths(flags, trunk, runs)
    rows = JobData(loaded, flags, trunk.tokenizer)
    for mode in dict.fromkeys(run.config.label_mode for run in runs):
        rows.check_labels(mode)
    return Job(flags, trunk, trunk.fingerprint(), rows, runs)


def trunk_hash(flags: Flags) -> str:
    """Fingerprint of the trunk that `flags` name, in their dtype."""
    return _open_trunk(flags).fingerprint()


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


def _open_trunk(flags: Flags) -> Trunk:
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


def run_folder(flags: Flags) -> Path:
    """The folder that `flags` name for the job; `InputError` if there is something in it."""
    name = flags["suite"] or ("tasks" if flags["tasks"] or flags["task_file"] else "mini")
    folder = Path(flags["out"] or f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder} is a file; name a folder")
    if (folder / "config.json").exists():
        raise InputError(f"--out {folder} is a run folder: --resume {folder} goes on with it, or name another")
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"--out {folder} holds other files; name a new or an empty folder")
    return folder


def check_recorded(folder: Path, job: Job) -> None:
    """Raise `InputError` unless a run folder's job began with the trunk and the runs of `job`, which
    is what its flags mean now.
    """
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        trunk, runs = content["trunk"]["sha256"], content["runs"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not the config.json of a run folder: {error!r}") from None
    if trunk != job.trunk_hash:
        raise InputError(f"{path}: the trunk {job.trunk.name} is not the one that the job began with")
    if runs != _run_configs(job):
        raise InputError(
            f"{path}: its flags mean other runs now than those that the job began with (the file was "
            "edited, or another version of compt_fast wrote it)"
        )


def _run_configs(job: Job) -> dict[str, Any]:
    return {run.id: run.config.to_json() for run in job.runs}


def prepare_folder(folder: Path, job: Job, command: list[str]) -> None:
    """Make the run folder, see that what the job will write fits, and write `config.json`.

    Raises `InputError` for a folder that cannot be written or a disk without room.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        need, free = disk_need(job), shutil.disk_usage(folder).free
        if need > free:
            raise InputError(
                f"--out {folder}: the job may need {need / 2**20:,.0f} MiB and the disk has "
                f"{free / 2**20:,.0f}; lower --runs-at-once or name a folder on another disk"
            )
        write_json(folder / "config.json", _config(job, command))
    except OSError as error:
        raise InputError(f"--out {folder}: cannot be written ({error.strerror})") from None


def disk_need(job: Job) -> int:
    """Bytes of two checkpoints of the largest runs side by side, and of every run's prompts."""
    sizes = sorted((12 * run.parameters for run in job.runs), reverse=True)
    prompts = [4 * run.shape.tasks * run.shape.target_length * run.shape.d_model * 3 for run in job.runs]
    return 2 * sum(sizes[: job.flags["runs_at_once"]]) + sum(prompts)


def _config(job: Job, command: list[str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "command": command,
        "flags": job.flags | {"out": None},  # a job repeated from this file gets a folder of its own
        "trunk": {"name": job.trunk.name, "sha256": job.trunk_hash},
        "runs": _run_configs(job),
        "environment": environment(),
    }
