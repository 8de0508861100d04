"""Which job a file belongs to: a hash of what the job learns from, that results and checkpoints carry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from compt_fast.config.flags import FLAGS, RUN_FLAGS, Flags
from compt_fast.config.run import RunConfig

# A job goes on under others of these: they change no number, or what they changed is done already.
FREE = {
    "out",
    "store",
    "source_examples",
    "source_steps",
    "device",
    "cuda_graphs",
    "runs_at_once",
    "checkpoint_every",
    "tensorboard",
}
_GROWS = FREE | {flag.key for flag in RUN_FLAGS} | {"fit_length"}
_PLACES = {"data_root", "data", "task_file"}  # data may move: what they are called counts, not where they lie


@dataclass(frozen=True)
class Identity:
    """Trunk, flags and runs of a job."""

    trunk_hash: str
    flags: Flags
    runs: Mapping[str, RunConfig]

    def hash(self, runs: Iterable[str]) -> str:
        """Of the job with these of its runs alone, so that a sweep can grow; `KeyError` for a run it has not.

        What is left at its default does not count: so a flag that a later version adds changes no hash. The trunk
        counts by its weights and not by its name.
        """
        flags = {
            key: _last(value) if key in _PLACES else value
            for key, value in self.flags.items()
            if key not in _GROWS and key != "model" and (key not in FLAGS or value != FLAGS[key].default)
        }
        content = {"trunk": self.trunk_hash, "flags": flags, "runs": {name: _chosen(self.runs[name]) for name in runs}}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _last(value: str | list[str]) -> str | list[str]:
    return Path(value).name if isinstance(value, str) else [Path(path).name for path in value]


def _chosen(config: RunConfig) -> dict[str, object]:
    values = config.to_json()
    defaults = {field.name: field.default for field in fields(config) if field.default is not MISSING}
    return {key: value for key, value in values.items() if key not in defaults or value != defaults[key]}
