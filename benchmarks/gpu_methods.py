"""Every method on the device: does it train there, and do both engines lose alike in their first steps?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import compt_fast
from compt_fast.config.baselines import BASELINES, METHODS
from compt_fast.config.presets import RANDOM

SHORT: dict[str, Any] = {"steps": 3, "shots": 4, "eval_size": 4, "suite": "mini", "dtype": "fp32", "progress": False}
CLOSE = 1e-4  # of a run's first loss, in parts of it: products in fp32 are summed in any order


def losses(method: str, engine: str, folder: Path, store: Path) -> list[float]:
    """The first loss of each of a method's runs on the embedded tasks; its stage one is trained into `store` first,
    unless it stands there.
    """
    given: dict[str, Any] = {"method": method, "engine": engine, "out": str(folder), **SHORT}
    preset = METHODS[method]
    if preset.settings.get("distil") or any(preset.init(role) != RANDOM for role in ("source", "private")):
        given |= {"store": str(store), "source_steps": 3}
    compt_fast.fit(**given)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record.get("step") == 1 and "loss" in record]


def tried(method: str, folder: Path) -> dict[str, Any]:
    """What came of a method: the losses by `fast` and `reference` and the most that two of them lie apart, in parts.

    A baseline changes the trunk and knows `reference` alone.
    """
    store = folder / f"{method}-store"
    reference = losses(method, "reference", folder / f"{method}-reference", store)
    if method in BASELINES:
        return {"reference": reference}
    fast = losses(method, "fast", folder / f"{method}-fast", store)
    apart = max(abs(a - b) / abs(b) for a, b in zip(fast, reference, strict=True))
    return {"fast": fast, "reference": reference, "apart": apart}
