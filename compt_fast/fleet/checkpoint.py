"""Checkpoints of a fleet: one file of tensors (safetensors) whose metadata hold the rest as JSON.

A run's order of rows and its random draws follow from its seed and step, so that parameters,
moments and step counts are all that a resumed job needs to go on with the same bits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from compt_fast.errors import InputError
from compt_fast.files import new_file
from compt_fast.fleet.cohort import Cohort

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """`state` as `save` was given it, with the `members` of each cohort, and per run its tensors by
    kind and name (`first.source_tokens`).
    """

    path: Path
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def save(folder: Path, state: dict[str, Any], cohorts: list[Cohort]) -> None:
    """Write the checkpoint `step-N.safetensors` of `state["step"]`, then drop those before it.

    At every moment, whatever ends the process, one whole checkpoint is there.
    """
    tensors: dict[str, Tensor] = {}
    for cohort in cohorts:
        for i, member in enumerate(cohort.members):
            for name, tensor in cohort.run_tensors(i).items():
                tensors[f"{member.run.id}/{name}"] = tensor.detach().cpu().contiguous()
    members = [[member.state() for member in cohort.members] for cohort in cohorts]
    text = json.dumps({"format": FORMAT, **state, "members": members}, allow_nan=False)
    target = folder / f"step-{state['step']:08d}.safetensors"
    folder.mkdir(exist_ok=True)
    with new_file(target) as temporary:
        save_file(tensors, temporary, metadata={"state": text})
    for old in folder.iterdir():
        if old != target:
            old.unlink()


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint under `folder`, None if there is none.

    Raises `InputError` that names the file when the checkpoint cannot be read.
    """
    found = sorted(folder.glob("step-*.safetensors"))
    if not found:
        return None
    path = found[-1]
    tensors: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["state"])
            for key in file.keys():  # noqa: SIM118  (no mapping)
                run, name = key.split("/", 1)
                tensors.setdefault(run, {})[name] = file.get_tensor(key)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"{path}: a damaged checkpoint: {error}") from None
    if state.get("format") != FORMAT:
        raise InputError(f"{path}: a checkpoint of format {state.get('format')}, not {FORMAT}")
    return Checkpoint(path, state, tensors)
