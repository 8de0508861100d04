"""Files of tensors, and what tells tensors from others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from compt_fast.utils.errors import InputError
from compt_fast.utils.inputs import check_file


def read_safetensors(path: Path, limit: int) -> dict[str, Tensor]:
    """The tensors of a file of at most `limit` bytes, by name; `InputError` for one that is missing or damaged."""
    check_file(path, limit)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def sha256_of(tensors: Mapping[str, Tensor]) -> str:
    """Hash of the bytes of tensors on the CPU, one after another in the order of their names, in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
