"""Runs that were stopped midway: what each needs to go on with the same bits, `stopped/RUN/step-N.safetensors`.

Which of the files count a checkpoint says: one that no checkpoint names was left by a process that died, or is of a
run that has gone on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compt_fast.training import checkpoint
from compt_fast.training.cohort import Cohort
from compt_fast.training.identity import Identity
from compt_fast.utils.errors import InputError

FOLDER = "stopped"


def path_of(folder: Path, run: str, step: int) -> Path:
    """Where the run folder `folder` keeps a run that was stopped after `step` of its steps."""
    return folder / FOLDER / run / f"step-{step:08d}.safetensors"


def keep(folder: Path, job: Identity, cohort: Cohort, index: int, development: dict[str, Any] | None = None) -> None:
    """Write the run at `index` of a cohort: parameters, moments, step, what was selected, and the `development` scores
    of what it has come to.
    """
    member = cohort.members[index]
    target = path_of(folder, member.run.id, member.step)
    target.parent.mkdir(parents=True, exist_ok=True)
    state = {"job": job.hash([member.run.id]), "results": {}, "members": [[member.state()]], "development": development}
    checkpoint.write(target, state, checkpoint.tensors_of(cohort, [index]))


def load(folder: Path, job: Identity, run: str, step: int) -> checkpoint.Checkpoint:
    """A run as `keep` wrote it.

    Raises `InputError` that names the file when it is not there, damaged, or of another job.
    """
    path = path_of(folder, run, step)
    saved = checkpoint.load(path, job)
    if saved.runs != [run] or saved.state["members"][0][0]["step"] != step:
        raise InputError(f"{path}: it holds other than the run {run} after {step} steps; put back its own")
    return saved


def named(state: Mapping[str, Any]) -> set[tuple[str, int]]:
    """The runs, with their steps, of which a checkpoint of this `state` needs the file."""
    ended = {(run, result.get("step", 0)) for run, result in state["results"].items() if result["status"] == "stopped"}
    return {(run, step) for run, step in ended | set(state.get("returning", {}).items()) if step}


def prune(folder: Path, checkpoints: Path) -> None:
    """Remove the files that none of the `checkpoints` needs."""
    found = sorted((folder / FOLDER).glob("*/step-*.safetensors"))
    if not found:
        return
    needed = {path_of(folder, *one) for state in checkpoint.states(checkpoints) for one in named(state)}
    for path in found:
        if path not in needed:
            path.unlink()
