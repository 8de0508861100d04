"""A run's composed prompts: what it is evaluated with, in memory and in `prompts/<run-id>/`.

The composed values are stored, not the parameters that they came from, so that a reload scores the
same to the last bit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from compt_fast.prompts.compose import Composition, Mask, compose
from compt_fast.prompts.parameters import mixing_parameters
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError, shown
from compt_fast.utils.files import new_folder, write_json
from compt_fast.utils.inputs import check_file, check_type, dataclass_from, read_object

_PARTS = ("targets", "sources", "privates", "weights", "gates")
FORMAT = 1
LARGEST = 2**36  # bytes of the prompts of a run
# What a manifest holds beside the numbers of its format; all after the first three are missing in early ones.
_MANIFEST: dict[str, Any] = {
    "format": int,
    "shape": dict,
    "tensors": dict,
    "tasks": list | None,
    "trunk": str | None,
    "trunk_hash": str | None,
    "dtype": str | None,
    "config": dict | None,
}


@dataclass(frozen=True)
class TrunkId:
    """Which trunk a prompt belongs to: what the user called it and, where its weights were at hand,
    their SHA-256 in the precision `dtype` ("fp32" or "bf16").
    """

    name: str
    sha256: str | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class RunPrompts:
    """Composition of one run (its run axis is 1) and the small parameters that evaluation needs.

    `tensors` holds the composition's parts that exist (`targets` (T, L, d), `sources` (N, m, d),
    `privates` (T, m, d), `weights`, `gates`), and `param.*`: the parameters that mix them.
    """

    shape: PromptShape
    tensors: dict[str, Tensor]

    @classmethod
    def of(cls, shape: PromptShape, composition: Composition, params: dict[str, Tensor]) -> RunPrompts:
        """Copies, on the CPU, of a composition and of the parameters beside it, both of one run."""
        tensors = {part: getattr(composition, part) for part in _PARTS}
        tensors |= {f"param.{name}": params[name] for name in mixing_parameters(shape)}
        kept = {name: t[0].detach().to("cpu", copy=True).contiguous() for name, t in tensors.items() if t is not None}
        return cls(shape, kept)

    def masked(self, mask: Mask) -> RunPrompts:
        """The prompts with some switched off, composed anew from the parts (ComPT's and CrossPT's
        ablations). Raises `InputError` for a mask of another number of sources.
        """
        tokens = {"source_tokens": "sources", "private_tokens": "privates"}
        params = {name: self.tensors[part][None] for name, part in tokens.items() if part in self.tensors}
        kept = {name: t for name, t in self.tensors.items() if name.startswith("param.")}
        params |= {name.removeprefix("param."): t[None] for name, t in kept.items()}
        encoded = replace(self.shape, encoder="none", encoded="both")
        return RunPrompts.of(self.shape, compose(params, encoded, mask=mask), params)

    def composed(self, device: torch.device) -> tuple[Composition, dict[str, Tensor]]:
        """The composition and the parameters beside it, of one run, on a device: what `compose_rows` takes."""
        wide = {name: t[None].to(device) for name, t in self.tensors.items()}
        params = {name.removeprefix("param."): t for name, t in wide.items() if name.startswith("param.")}
        return Composition(**{part: wide.get(part) for part in _PARTS}), params


def save_prompts(folder: Path, prompts: RunPrompts, about: dict[str, Any]) -> None:
    """Write `prompts` with a manifest that says `about` (run, tasks, trunk, ...), atomically."""
    manifest = {
        "format": FORMAT,
        **about,
        "shape": asdict(prompts.shape),
        "tensors": {name: list(t.shape) for name, t in prompts.tensors.items()},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with new_folder(folder) as temporary:
        save_file(prompts.tensors, temporary / "prompts.safetensors")
        write_json(temporary / "manifest.json", manifest)


def load_prompts(folder: Path) -> tuple[RunPrompts, dict[str, Any]]:
    """Prompts and manifest of a folder written by `save_prompts`.

    Raises `InputError` that names the file when one is missing, damaged or does not fit the other.
    """
    path = folder / "manifest.json"
    if not path.exists():
        raise InputError(f"{path}: no such file; a folder of stored prompts holds a manifest.json")
    manifest = read_object(path, "a manifest of stored prompts")
    for key, kind in _MANIFEST.items():
        check_type(manifest.get(key), kind, f"{path}: not a manifest of stored prompts: {key}")
    if manifest["format"] != FORMAT:
        raise InputError(f"{path}: stored prompts of format {manifest['format']}, not {FORMAT}")
    for name in manifest.get("tasks") or ():
        check_type(name, str, f"{path}: tasks: a name")
    shape = dataclass_from(PromptShape, manifest["shape"], f"{path}: shape")
    expected = manifest["tensors"]
    weights = folder / "prompts.safetensors"
    check_file(weights, LARGEST)
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{weights}: cannot be read: {error}") from None
    found = {name: list(t.shape) for name, t in tensors.items()}
    if found != expected:
        raise InputError(f"{weights}: holds {shown(found, 400)}, but its manifest says {shown(expected, 400)}")
    sizes = _sizes(shape)
    wrong = [name for name in expected if sizes.get(name, expected[name]) != expected[name]]
    if wrong or ("targets" in expected) == shape.per_row:
        raise InputError(f"{path}: its shape does not go with its tensors ({', '.join(wrong)})")
    return RunPrompts(shape, tensors), manifest


def _sizes(shape: PromptShape) -> dict[str, list[int]]:
    """What each part of a composition of one run measures."""
    return {
        "targets": [shape.tasks, shape.target_length, shape.d_model],
        "sources": [shape.sources, shape.length, shape.d_model],
        "privates": [shape.tasks, shape.length, shape.d_model],
        "weights": [shape.tasks, shape.n_weights],
        "gates": [shape.tasks, 2],
    }


def check_trunk(folder: Path, manifest: dict[str, Any], trunk: TrunkId, d_model: int) -> None:
    """Raise `InputError` unless the prompts of `folder` were trained on this trunk, of width `d_model`."""
    width = manifest["shape"]["d_model"]
    if width != d_model:
        raise InputError(
            f"{folder}: prompts of d_model {width} do not fit trunk {trunk.name} of d_model "
            f"{d_model}; they were trained on {manifest.get('trunk')}"
        )
    if manifest.get("trunk_hash") != trunk.sha256:
        raise InputError(
            f"{folder}: prompts of trunk {manifest.get('trunk')} (sha256 "
            f"{manifest.get('trunk_hash')}), not of {trunk.name} (sha256 {trunk.sha256}), whose "
            "weights differ"
        )
