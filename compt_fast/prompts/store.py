"""The prompt store: a folder of trained prompts, one a task, to start other prompts from.

An entry is a folder of its name with `prompt.safetensors`, one fp32 tensor `prompt` (m, d), and
`manifest.json`. Values are stored as the trunk read them, after any prompt encoder, so that a reload
gives the same bits. What a store knows of a trunk is its name and the hash of its weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d

from compt_fast.config.choices import FITS
from compt_fast.prompts.artifact import TrunkId
from compt_fast.utils.errors import InputError, shown, unknown
from compt_fast.utils.files import clean, new_folder, remove_folder, write_json
from compt_fast.utils.inputs import check_file, check_type, dataclass_from, read_object
from compt_fast.utils.locks import locked
from compt_fast.utils.names import check_name, is_name

FORMAT = 1
LOCK = ".lock"
LARGEST = 2**30  # bytes of a file of prompts
MOST_VALUES = 2**26  # of a prompt: as many as 65,536 tokens of width 1024


@dataclass(frozen=True)
class StoredPrompt:
    """One entry. `values` (m, d) fp32; `score` is {"metric", "value" in percent} on the task, where
    known; `training` says how it was trained or where it came from.
    """

    name: str
    task: str
    trunk: TrunkId
    values: Tensor
    encoder: str | None = None
    score: dict[str, Any] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    created: str = ""

    @property
    def length(self) -> int:
        """Prompt tokens m."""
        return self.values.shape[0]

    @property
    def d_model(self) -> int:
        """Width d."""
        return self.values.shape[1]

    @property
    def sha256(self) -> str:
        """Hash of the values' bytes, in hexadecimal."""
        return hashlib.sha256(self.values.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()

    def check(self, trunk: TrunkId, d_model: int) -> None:
        """Raise `InputError` unless the prompt belongs to this trunk.

        Hashes of different precisions say nothing of each other: compare those of one `dtype`. Of
        an entry without a hash only name and width can be compared.
        """
        if self.d_model != d_model:
            raise InputError(
                f"stored prompt {self.name}: its d_model {self.d_model} does not fit trunk {trunk.name} of d_model "
                f"{d_model}; it belongs to trunk {self.trunk.name}"
            )
        if self.trunk.sha256 is None and self.trunk.name != trunk.name:
            raise InputError(
                f"stored prompt {self.name} is said to belong to trunk {self.trunk.name} (its weights were not at hand "
                f"when it was added), not to {trunk.name}; if they are the same, add it again with --model {trunk.name}"
            )
        if self.trunk.sha256 not in (None, trunk.sha256):
            raise InputError(
                f"stored prompt {self.name} belongs to trunk {self.trunk.name} (sha256 {self.trunk.sha256}), not to "
                f"{trunk.name} (sha256 {trunk.sha256}), whose weights differ"
            )


class PromptStore:
    """The prompts in a folder, which is made by the first one that is added."""

    def __init__(self, folder: Path) -> None:
        """Raises `InputError` where `folder` is a file."""
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--store {folder} is a file; name a folder")
        self.folder = folder

    def names(self) -> list[str]:
        """The entries, damaged ones too, in alphabetical order."""
        if not self.folder.is_dir():
            return []
        return sorted(p.name for p in self.folder.iterdir() if p.is_dir() and is_name(p.name))

    def load(self, name: str) -> StoredPrompt:
        """An entry, read and checked.

        Raises `InputError` that names the file and what is wrong: no such entry, no manifest or one
        that was edited, a truncated or changed tensor.
        """
        manifest = self.manifest(name)
        values = _read_values(self.folder / name / "prompt.safetensors", manifest)
        known = ("name", "task", "encoder", "score", "training", "created")
        return StoredPrompt(trunk=TrunkId(**manifest["trunk"]), values=values, **{key: manifest[key] for key in known})

    def manifest(self, name: str) -> dict[str, Any]:
        """What stands in an entry's manifest, checked; `InputError` as of `load`."""
        if name not in self.names():
            raise unknown(f"prompt in the store {self.folder}", name, self.names())
        path = self.folder / name / "manifest.json"
        manifest = _read_manifest(path)
        if manifest["name"] != name:
            raise InputError(f"{path}: its name is {manifest['name']!r}, but it stands in a folder called {name!r}")
        return manifest

    def add(self, prompt: StoredPrompt, *, replace: bool = False) -> None:
        """Write an entry, atomically; with `replace`, in the place of one of that name.

        Raises `InputError` for a name that is taken or no file name, for values that are no prompt
        or not finite, and where the folder cannot be written.
        """
        check_name(prompt.name, "a stored prompt")
        prompt = dataclasses.replace(prompt, values=as_prompt(prompt.values, f"stored prompt {prompt.name}"))
        with self._alone():
            if prompt.name in self.names() and not replace:
                raise InputError(
                    f"the store {self.folder} has a prompt {prompt.name!r}; remove it first, or name another"
                )
            self._write(prompt)

    def keep(self, prompt: StoredPrompt) -> None:
        """Write an entry, unless the store has it: the same values, or those that another job has trained with the
        same settings meanwhile. Raises `InputError` as of `add`, and where the name is another prompt's.
        """
        check_name(prompt.name, "a stored prompt")
        with self._alone():
            if prompt.name not in self.names():
                self._write(prompt)
                return
            there = self.load(prompt.name)
        alike = there.training == prompt.training and there.trunk == prompt.trunk
        if there.task != prompt.task or not (there.sha256 == prompt.sha256 or alike):
            raise InputError(
                f"the store {self.folder} has another prompt {prompt.name!r} now, which was trained otherwise; "
                "remove it from there and go on with this job, or begin one with another --store"
            )

    def tidy(self) -> None:
        """Remove what a process that died while it wrote left in the folder: half an entry, its lock. Waits for one
        that lives. Raises `InputError` where the folder cannot be written.
        """
        if (self.folder / LOCK).exists():
            with self._alone():
                pass

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While entered no other process writes to the store, which is made if it is not there, and cleaned up."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / LOCK, wait=True):
                clean(self.folder, is_name)
                yield
        except (OSError, SafetensorError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"--store {self.folder}: cannot be written ({why})") from None

    def _write(self, prompt: StoredPrompt) -> None:
        manifest = {
            "format": FORMAT,
            "name": prompt.name,
            "task": prompt.task,
            "trunk": asdict(prompt.trunk),
            "length": prompt.length,
            "d_model": prompt.d_model,
            "encoder": prompt.encoder,
            "sha256": prompt.sha256,
            "score": prompt.score,
            "training": prompt.training,
            "created": prompt.created or datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with new_folder(self.folder / prompt.name) as temporary:
            save_file({"prompt": prompt.values}, temporary / "prompt.safetensors")
            write_json(temporary / "manifest.json", manifest)

    def remove(self, name: str) -> None:
        """Delete an entry, damaged or not; of a link the link alone. `InputError` if there is none of that name, or
        it holds a folder, which no entry does.
        """
        if name not in self.names():
            raise unknown(f"prompt in the store {self.folder}", name, self.names())
        entry = self.folder / name
        if not entry.is_symlink() and any(part.is_dir() and not part.is_symlink() for part in entry.iterdir()):
            raise InputError(f"{entry}: holds a folder, as no entry of a store does: remove it yourself")
        with self._alone():
            remove_folder(entry)


def as_prompt(values: Tensor, what: str) -> Tensor:
    """`values` as a contiguous fp32 tensor (m, d) on the CPU, which holds bf16 and fp16 exactly.

    Raises `InputError` that begins with `what` for another shape, numbers that are no floats, and
    values that are not finite.
    """
    if values.layout is not torch.strided or values.device.type == "meta":
        raise InputError(f"{what}: a {values.layout} tensor on {values.device}; a prompt is a dense one with values")
    if values.numel() > MOST_VALUES:
        raise InputError(
            f"{what}: {tuple(values.shape)} are {values.numel():,} values; a prompt has up to {MOST_VALUES:,}"
        )
    if values.dim() != 2 or 0 in values.shape or not values.is_floating_point():
        raise InputError(
            f"{what}: a prompt is a float tensor (tokens, d_model), not {values.dtype} of shape {tuple(values.shape)}"
        )
    own = values.detach().to("cpu", torch.float32).contiguous()
    if not bool(own.isfinite().all()):
        raise InputError(f"{what}: holds values that are not finite")
    return own


def fit_length(prompt: StoredPrompt, length: int, how: str) -> Tensor:
    """The values of a stored prompt (m, d) brought to `length` tokens.

    `first` takes the first ones; `mean-pool` the means of `length` runs of neighbours; `repeat`
    begins anew at the end. The choice is ours; nothing in the papers compares lengths.

    Raises `InputError` where the prompt is too short for `first` and `mean-pool`, or too long for
    `repeat`.
    """
    if how not in FITS:
        raise unknown("way to fit a prompt's length", how, FITS)
    own, values = prompt.length, prompt.values
    if own == length:
        return values
    if (how == "repeat") != (own < length):
        other = "repeat" if own < length else "first or mean-pool"
        raise InputError(
            f"stored prompt {prompt.name} has {own} tokens and {length} are needed, which --fit-length {how} cannot "
            f"give; take {other}"
        )
    if how == "first":
        return values[:length].clone()
    if how == "repeat":
        return values.repeat(math.ceil(length / own), 1)[:length].clone()
    return adaptive_avg_pool1d(values.T[None], length)[0].T.contiguous()


def _read_manifest(path: Path) -> dict[str, Any]:
    kinds: dict[str, Any] = {
        "format": int,
        "name": str,
        "task": str,
        "trunk": dict,
        "length": int,
        "d_model": int,
        "encoder": str | None,
        "sha256": str,
        "score": dict | None,
        "training": dict,
        "created": str,
    }
    if not path.exists():
        raise InputError(f"{path}: no such file; a stored prompt has a manifest.json")
    manifest = read_object(path, "a manifest of a stored prompt")
    for key, kind in kinds.items():
        if key not in manifest:
            raise InputError(f"{path}: {key} is missing")
        check_type(manifest[key], kind, f"{path}: {key}")
    if manifest["format"] != FORMAT:
        raise InputError(f"{path}: a stored prompt of format {manifest['format']}, not {FORMAT}")
    dataclass_from(TrunkId, manifest["trunk"], f"{path}: trunk")
    for key, kind in {"metric": str, "value": float}.items() if manifest["score"] else ():
        check_type(manifest["score"].get(key), kind, f"{path}: score: {key}")
    return manifest


def _read_values(path: Path, manifest: dict[str, Any]) -> Tensor:
    """The tensor beside a manifest, which must be what the manifest says."""
    check_file(path, LARGEST)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    if list(tensors) != ["prompt"]:
        raise InputError(f"{path}: holds {shown(sorted(tensors), 400)}, not one tensor 'prompt'")
    values = as_prompt(tensors["prompt"], str(path))
    said = (manifest["length"], manifest["d_model"])
    if tuple(values.shape) != said:
        raise InputError(f"{path}: a prompt of shape {tuple(values.shape)}, but its manifest says {said}")
    digest = hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest()
    if digest != manifest["sha256"]:
        raise InputError(
            f"{path}: its values are not those its manifest was written for (sha256 {digest}, not "
            f"{shown(manifest['sha256'])})"
        )
    return values
