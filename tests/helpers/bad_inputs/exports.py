"""Exports that come back: adapters with our manifest, and prompts in a checkpoint's vocabulary."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.helpers.bad_inputs import (
    ANY_FILE,
    GONE,
    JSON_FILE,
    NO_TABLE,
    NO_TEXT,
    NO_WHOLE,
    TEXT_FILE,
    WEIGHTS_FILE,
    Case,
    Make,
    Materials,
    edited_json,
    spoilt_files,
)
from tests.helpers.bad_inputs.folders import ENTRY
from tests.helpers.foreign import peft_adapter

ADD = ["store", "add", "export", "--store=s"]
KEPT = {way: ANY_FILE[way] for way in ("grown", "empty", "noise")}
"""What leaves a file there; without its manifest a folder is no export."""


def _adapter(materials: Materials) -> Make:
    def make(folder: Path) -> list[str]:
        entry = materials.store / ENTRY
        peft_adapter(folder / "export" / "toy", load_file(entry / "prompt.safetensors")["prompt"])
        shutil.copyfile(entry / "manifest.json", folder / "export" / "toy" / "manifest.json")
        return ADD

    return make


def _vocabulary(materials: Materials) -> Make:
    def make(folder: Path) -> list[str]:
        values = load_file(materials.store / ENTRY / "prompt.safetensors")["prompt"]
        (folder / "export").mkdir()
        table = torch.cat([torch.zeros(5, values.shape[1]), values])
        save_file({"shared.weight": table}, folder / "export" / "model.safetensors")
        manifest = json.loads((materials.store / ENTRY / "manifest.json").read_text())
        content = {"toy": manifest | {"rows": [5, len(table)]}}
        (folder / "export" / "prompts.json").write_text(json.dumps(content))
        return ADD

    return make


def cases(materials: Materials) -> Iterator[Case]:
    """Bad exports."""
    good, path = _adapter(materials), "export/toy/manifest.json"
    yield from spoilt_files("export/peft", path, good, KEPT, TEXT_FILE, JSON_FILE)
    yield from spoilt_files("export/peft", "export/toy/adapter_model.safetensors", good, KEPT, WEIGHTS_FILE)
    yield from edited_json("export/peft", path, good, ["sha256"], NO_TEXT | {"gone": GONE})
    yield from edited_json("export/peft", path, good, ["kind"], {"other": "run"})
    good, path = _vocabulary(materials), "export/prompts.json"
    yield from spoilt_files("export/vocabulary", path, good, KEPT, TEXT_FILE, JSON_FILE)
    yield from spoilt_files("export/vocabulary", "export/model.safetensors", good, ANY_FILE, WEIGHTS_FILE)
    yield from edited_json("export/vocabulary", path, good, ["toy"], NO_TABLE)
    rows = NO_WHOLE | {"one": [3], "texts": ["5", "7"], "true": [True, 7], "gone": GONE}
    yield from edited_json("export/vocabulary", path, good, ["toy", "rows"], rows)
    for key, values in {"sha256": NO_TEXT | {"gone": GONE}, "shape": NO_TABLE, "tasks": {"path": ["../a"]}}.items():
        yield from edited_json("export/vocabulary", path, good, ["toy", key], values)
    for way, place in {"negative": [-1, 2], "beyond": [5, 900], "empty": [6, 6], "wide": [0, 2**100]}.items():
        for case in edited_json("export/vocabulary", path, good, ["toy", "rows"], {way: place}):
            yield Case(case.name, case.make, ("model.safetensors", "rows"))
    for case in edited_json("export/vocabulary", path, good, ["toy", "rows"], {"other": [4, 6]}):
        yield Case(case.name, case.make, ("model.safetensors", "sha256"))


def sound(materials: Materials) -> Iterator[Case]:
    """The same, with nothing wrong."""
    yield Case("export/peft", _adapter(materials), ())
    yield Case("export/vocabulary", _vocabulary(materials), ())
