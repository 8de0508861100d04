"""Manifests of format 1, of which runs and stores had one each, in the words of the present one.

They know no definition of a task and no truncation, and those of runs no hash of the tensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compt_fast.utils.errors import InputError
from compt_fast.utils.inputs import check_type

# What a manifest of a run held; all after the first two are missing in early ones.
_RUN: dict[str, Any] = {
    "shape": dict,
    "tensors": dict,
    "run": str | None,
    "tasks": list | None,
    "source_tasks": list | None,
    "trunk": str | None,
    "trunk_hash": str | None,
    "d_model": int | None,
    "dtype": str | None,
    "config": dict | None,
    "prefix": bool | None,
    "prompt_position": str | None,
    "created": str | None,
}
_PROMPT: dict[str, Any] = {
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
_TEXT = ("prefix", "prompt_position", "label_mode")


def present_manifest(old: dict[str, Any], kind: str, path: Path) -> dict[str, Any]:
    """The manifest `old` of a run or a prompt, from `path`, as if it were of the present format but for its number.

    Raises `InputError` that names the file, and what is missing or wrong in it.
    """
    keys = _RUN if kind == "run" else _PROMPT
    for key, what in keys.items():
        if key not in old and kind == "prompt":
            raise InputError(f"{path}: {key} is missing")
        check_type(old.get(key), what, f"{path}: not a manifest of stored prompts: {key}")
    made = _of_run(old, path.parent.name) if kind == "run" else _of_prompt(old)
    return {"format": old["format"], "kind": kind, "definitions": {}, **made}


def _of_run(old: dict[str, Any], folder: str) -> dict[str, Any]:
    config, shape = old.get("config") or {}, old["shape"]
    return {
        "name": old.get("run") or folder,
        "tasks": old.get("tasks") or [],
        "source_tasks": old.get("source_tasks"),
        "text": _text(old | {"label_mode": config.get("label_mode", "natural")}),
        "trunk": {
            "name": old.get("trunk") or "(not said)",
            "sha256": old.get("trunk_hash"),
            "dtype": old.get("dtype"),
            "d_model": old.get("d_model") or shape.get("d_model"),
        },
        "shape": shape,
        "tensors": old["tensors"],
        "sha256": None,
        "score": None,
        "training": {"config": config} if config else {},
        "created": old.get("created") or "",
    }


def _of_prompt(old: dict[str, Any]) -> dict[str, Any]:
    m, d = old["length"], old["d_model"]
    alone = {"composition": "pt", "tasks": 1, "sources": 0, "private": True, "length": m, "d_model": d}
    return {
        "name": old["name"],
        "tasks": [old["task"]],
        "source_tasks": None,
        "text": _text(old["training"]),
        "trunk": old["trunk"] | {"d_model": d},
        "shape": alone | {"encoder": old["encoder"] or "none"},
        "tensors": {"prompt": [m, d]},
        "sha256": old["sha256"],
        "score": old["score"],
        "training": {key: value for key, value in old["training"].items() if key not in _TEXT},
        "created": old["created"],
    }


def _text(held: dict[str, Any]) -> dict[str, Any]:
    return {key: held.get(key) for key in _TEXT}
