"""Prompts in the files of other programs: PyTorch's `.pt` files, safetensors, PEFT's adapters, and the exports of ours
that come back with all that was known of them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from compt_fast.prompts.artifact import (
    LARGEST,
    MANIFEST,
    check_manifest,
    described,
    read_manifest,
)
from compt_fast.prompts.store import StoredPrompt, as_prompt
from compt_fast.prompts.tensors import read_safetensors
from compt_fast.utils.errors import InputError, shown
from compt_fast.utils.inputs import check_file, check_type, read_object

PICKLED = (".pt", ".pth", ".bin")
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PEFT_TENSOR = "prompt_embeddings"
VOCABULARY = "prompts.json"
"""Beside a checkpoint whose embedding table holds prompts: the manifest of each by its task, with `rows`, the first of
its rows and the one behind its last.
"""
TABLE = "shared.weight"
"""The embedding table of a T5 checkpoint."""


@dataclass(frozen=True)
class ForeignPrompt:
    """`values` (m, d) fp32; `model` is the trunk's name where the file says it; `notes` for the
    manifest."""

    values: Tensor
    model: str | None
    notes: dict[str, Any]


def read_foreign(path: Path) -> ForeignPrompt:
    """The prompt in a tensor file or a PEFT adapter's folder.

    A file holds one prompt: a tensor (m, d), or a dictionary with one such tensor. Of pickled files
    tensors alone are unpickled. Raises `InputError` that names the file and says what it holds.
    """
    if path.is_dir():
        return _peft(path)
    tensors = read_tensors(path)
    prompts = {name: t for name, t in tensors.items() if t.dim() == 2}
    if len(prompts) != 1:
        held = {name: tuple(t.shape) for name, t in tensors.items()}
        raise InputError(f"{path}: one tensor (tokens, d_model) is needed, and it holds {shown(held, 400)}")
    (values,) = prompts.values()
    return ForeignPrompt(as_prompt(values, str(path)), None, {"imported": path.name})


def read_exported(path: Path) -> list[StoredPrompt]:
    """The prompts of an export: of an adapter's folder with a manifest, of a folder of such folders, or of a checkpoint
    with prompts in its vocabulary; none for anything else.

    Raises `InputError` for one that is damaged, and where values are not those that the manifest was written for.
    """
    if (path / VOCABULARY).is_file():
        return _vocabulary(path)
    if not path.is_dir():
        return []
    folders = [path] if _is_ours(path) else sorted(part for part in path.iterdir() if _is_ours(part))
    return [_adapter(folder) for folder in folders]


def _is_ours(folder: Path) -> bool:
    return (folder / ADAPTER).is_file() and (folder / MANIFEST).is_file()


def _adapter(folder: Path) -> StoredPrompt:
    tensors = {"prompt": _peft(folder).values}
    found = described(read_manifest(folder, "prompt"), tensors, folder / MANIFEST, folder / ADAPTER_WEIGHTS)
    return StoredPrompt.of(*found, str(folder))


def _vocabulary(folder: Path) -> list[StoredPrompt]:
    path, weights = folder / VOCABULARY, folder / "model.safetensors"
    entries = []
    for task, content in read_object(path, "the prompts of a vocabulary").items():
        where = f"{path}: {task}"
        check_type(content, dict, where)
        rows = content.get("rows")
        if not (isinstance(rows, list) and len(rows) == 2 and all(type(row) is int for row in rows)):
            raise InputError(f"{where}: rows must be the first row of the prompt and the one behind its last")
        tensors = {"prompt": _rows(weights, *rows)}
        found = described(check_manifest(content, "prompt", path), tensors, path, weights)
        entries.append(StoredPrompt.of(*found, where))
    return entries


def _rows(path: Path, first: int, behind: int) -> Tensor:
    """These rows of the embedding table in a file of weights, which is not read whole."""
    check_file(path, LARGEST["run"])
    try:
        with safe_open(path, framework="pt") as tensors:
            table = tensors.get_slice(TABLE)
            height = table.get_shape()[0]
            if not 0 <= first < behind <= height:
                raise InputError(f"{path}: {TABLE} has {height} rows, and the prompt is said to be in {first}:{behind}")
            return as_prompt(table[first:behind], str(path))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: {TABLE} cannot be read: {error}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.pt`, `.pth`, `.bin` or `.safetensors` file by name; a single one is `""`.

    Raises `InputError` for another ending, a damaged file, and a pickle that holds more than tensors.
    """
    if path.suffix not in (".safetensors", *PICKLED):
        raise InputError(f"{path}: a prompt is a {', '.join(PICKLED)} or .safetensors file, or an adapter's folder")
    if path.suffix == ".safetensors":
        return read_safetensors(path, LARGEST["prompt"])
    check_file(path, LARGEST["prompt"])
    try:
        with warnings.catch_warnings(action="ignore"):  # of tensors that are refused below, in one line
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to trip
        first = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(f"{path}: no file of tensors, or one that would run code when read: {first[:200]}") from None
    found = content if isinstance(content, dict) else {"": content}
    if not found or not all(isinstance(t, Tensor) for t in found.values()):
        kinds = sorted({type(value).__name__ for value in found.values()})
        raise InputError(f"{path}: holds {', '.join(kinds) or 'nothing'}, not tensors alone")
    return {str(name): t for name, t in found.items()}


def _peft(folder: Path) -> ForeignPrompt:
    """A prompt-tuning adapter of PEFT: `adapter_config.json` and `adapter_model.safetensors` (or
    `.bin`).

    PEFT makes `num_transformer_submodules` times `num_virtual_tokens` rows; an encoder-decoder reads
    the first `num_virtual_tokens` of them, before its encoder's input, and never the rest.
    """
    path = folder / ADAPTER
    if not path.exists():
        raise InputError(f"{folder}: no adapter_config.json; a folder to import is a PEFT adapter")
    config = read_object(path, "the configuration of a PEFT adapter")
    kinds = {"peft_type": str, "num_virtual_tokens": int, "num_transformer_submodules": int | None}
    kinds |= {"token_dim": int | None, "base_model_name_or_path": str | None}
    for key, what in kinds.items():
        check_type(config.get(key), what, f"{path}: not the configuration of a PEFT adapter: {key}")
    kind, tokens = config["peft_type"], config["num_virtual_tokens"]
    if kind != "PROMPT_TUNING":
        raise InputError(f"{path}: a {shown(kind)} adapter is no soft prompt before the input; only PROMPT_TUNING is")
    files = [folder / f"adapter_model{end}" for end in (".safetensors", ".bin")]
    weights = next((file for file in files if file.is_file()), files[0])
    tensors = read_tensors(weights)
    if list(tensors) != [PEFT_TENSOR]:
        raise InputError(f"{weights}: holds {shown(sorted(tensors), 400)}, not {PEFT_TENSOR!r} alone")
    values = as_prompt(tensors[PEFT_TENSOR], str(weights))
    times = config.get("num_transformer_submodules") or 1
    if tokens < 1 or times < 1 or len(values) not in (tokens, tokens * times):
        raise InputError(
            f"{weights}: {len(values)} rows, but adapter_config.json says {tokens} virtual tokens, {times} submodules"
        )
    if config.get("token_dim") not in (None, values.shape[1]):
        raise InputError(f"{weights}: width {values.shape[1]}, but adapter_config.json says {config['token_dim']}")
    notes = {"imported": folder.name, "format": "PEFT prompt tuning", "rows_unused": len(values) - tokens}
    return ForeignPrompt(values[:tokens].clone(), config.get("base_model_name_or_path"), notes)
