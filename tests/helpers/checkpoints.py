"""Checkpoint folders spoilt or stored in other ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from compt_fast.models import checkpoint


def edit_json(file: Path, **changes: object) -> None:
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def shard(folder: Path) -> Path:
    """Cut the weights in two files with an index, as large checkpoints are published."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    index = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    (folder / checkpoint.SAFETENSORS[1]).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def pickled(folder: Path, *, cut: bool = False, old_format: bool = False) -> Path:
    """Store the weights as torch pickles them, in two files with an index if `cut`."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {checkpoint.PICKLED[0]: names}
    if cut:
        parts = {f"pytorch_model-0000{n + 1}-of-00002.bin": names[n::2] for n in range(2)}
        index = {name: file for file, part in parts.items() for name in part}
        (folder / checkpoint.PICKLED[1]).write_text(json.dumps({"metadata": {}, "weight_map": index}))
    for file, part in parts.items():
        tensors = {name: weights[name] for name in part}
        torch.save(tensors, folder / file, _use_new_zipfile_serialization=not old_format)
    return folder


class Bomb:
    """What runs code as it is unpickled: it makes the file `mark`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.mark,))
