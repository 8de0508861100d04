"""Checkpoints of a fleet: one file of tensors (safetensors) whose metadata hold the rest as JSON.

A run's order of rows and its random draws follow from its seed and step, so that parameters,
moments and step counts are all that a resumed job needs to go on with the same bits.

The metadata hold a hash of all the rest, and the state the hash of the job. The checkpoint before the latest stays:
should the latest be damaged, a job goes on from that one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from compt_fast.training.cohort import Cohort
from compt_fast.training.identity import Identity
from compt_fast.utils.errors import InputError
from compt_fast.utils.files import new_file

FORMAT = 2
UNHASHED = 1  # the format before, which is still read


class Damaged(Exception):
    """What is wrong with a file that should be a checkpoint."""


@dataclass(frozen=True)
class Checkpoint:
    """`state` as `save` was given it, with the `members` of each cohort, and per run its tensors by
    kind and name (`first.source_tokens`). `damaged` says what is wrong with a later one, "" where there is none.
    """

    path: Path
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]
    damaged: str = ""

    @property
    def runs(self) -> list[str]:
        """The runs that it knows of: those that had ended, those in training, and those that wait to go on."""
        training = [entry["run"] for entry in chain.from_iterable(self.state["members"])]
        return [*self.state["results"], *training, *self.state.get("returning", ())]


def save(folder: Path, state: dict[str, Any], cohorts: list[Cohort]) -> None:
    """Write the checkpoint `step-N.safetensors` of `state["step"]`, read it again, and drop all but the one before it.

    At every moment, whatever ends the process, one whole checkpoint is there. After the last run nothing could
    be told from the one before, and it is dropped too.
    """
    tensors: dict[str, Tensor] = {}
    for cohort in cohorts:
        tensors |= tensors_of(cohort, range(len(cohort.members)))
    members = [[member.state() for member in cohort.members] for cohort in cohorts]
    target = folder / f"step-{state['step']:08d}.safetensors"
    folder.mkdir(exist_ok=True)
    write(target, {**state, "members": members}, tensors)
    before = [path for path in _all(folder) if path < target]
    kept = [target, *before[-1:]] if tensors else [target]
    for old in _all(folder):
        if old not in kept:  # later ones too, which were damaged
            old.unlink()


def tensors_of(cohort: Cohort, indices: Iterable[int]) -> dict[str, Tensor]:
    """What continues the runs at `indices` of a cohort, on the CPU, by run and name."""
    return {
        f"{cohort.members[i].run.id}/{name}": tensor.detach().cpu().contiguous()
        for i in indices
        for name, tensor in cohort.run_tensors(i).items()
    }


def write(target: Path, state: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a checkpoint and read it again; `state` holds the `members` too."""
    text = json.dumps({"format": FORMAT, **state}, allow_nan=False)
    with new_file(target) as temporary:
        save_file(tensors, temporary, metadata={"state": text, "sha256": _digest(text, tensors)})
        try:
            _read(temporary)
        except Damaged as error:
            raise OSError(f"{target} was written, and reads otherwise: {error}") from None


def load(path: Path, job: Identity) -> Checkpoint:
    """The checkpoint at `path`; `InputError` that names it when it is not there, damaged, or not of this `job`."""
    try:
        saved = _read(path)
    except Damaged as error:
        what = "a damaged checkpoint" if path.exists() else "it is not there"
        raise InputError(f"{path}: {what}: {error}; put back a copy of it") from None
    _check_job(saved, job)
    return saved


def states(folder: Path) -> list[dict[str, Any]]:
    """What the checkpoints under `folder` say beside their tensors, whose bytes are not read; not of damaged ones."""
    found = []
    for path in _all(folder):
        with suppress(OSError, ValueError, KeyError, TypeError, SafetensorError), safe_open(path, "pt") as file:
            found.append(json.loads(file.metadata()["state"]))
    return found


def load_latest(folder: Path, job: Identity | None = None) -> Checkpoint | None:
    """The newest whole checkpoint under `folder`, None if there is none.

    Raises `InputError` that names the file when none can be read, and when it is not of this `job`.
    """
    damaged = ""
    for path in reversed(_all(folder)):
        try:
            saved = _read(path)
        except Damaged as error:
            damaged = damaged or f"{path}: a damaged checkpoint: {error}"
            continue
        if job is not None:
            _check_job(saved, job)
        return replace(saved, damaged=damaged)
    if damaged:
        raise InputError(f"{damaged}; put back a copy of it, or remove {folder} and the job begins again")
    return None


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.safetensors"))


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state and of the names, types, shapes and bytes of tensors."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> Checkpoint:
    """A checkpoint; `Damaged` where it is none, `InputError` where it is of a format that is not known."""
    flat: dict[str, Tensor] = {}
    tensors: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            state = json.loads(metadata["state"])
            for key in file.keys():  # noqa: SIM118  (no mapping)
                run, name = key.split("/", 1)
                tensors.setdefault(run, {})[name] = flat[key] = file.get_tensor(key)
        known, digest = state.get("format"), metadata.get("sha256")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise Damaged(str(error)) from None
    if digest != _digest(metadata["state"], flat) and (digest is not None or known == FORMAT):
        raise Damaged("its content is not what was written (its sha256 is another)")
    if known not in (FORMAT, UNHASHED):
        raise InputError(f"{path}: a checkpoint of format {known}, not {FORMAT}")
    return Checkpoint(path, state, tensors)


def _check_job(saved: Checkpoint, job: Identity) -> None:
    """Raise `InputError` unless a checkpoint is of this job, or of one with fewer runs."""
    unknown = [run for run in saved.runs if run not in job.runs]
    own = saved.state.get("job")
    if unknown or (own is not None and own != job.hash(saved.runs)):
        why = f"it holds the run {unknown[0]}" if unknown else "trunk, flags or settings of its runs are others"
        raise InputError(
            f"{saved.path}: not a checkpoint of this job: {why}; put back the job's own, or remove it and the job "
            "goes on from the one before, or begins again"
        )
