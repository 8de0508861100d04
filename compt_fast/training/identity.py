"""Which job a file belongs to: a hash of what the job learns from, that results and checkpoints carry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from compt_fast.config.fields import PLACE
from compt_fast.config.job import JOB_FLAGS, JobSettings
from compt_fast.config.run import RunConfig
from compt_fast.training.plan import Run


@dataclass(frozen=True)
class Identity:
    """Trunk, settings and runs of a job."""

    trunk_hash: str
    settings: JobSettings
    runs: Mapping[str, RunConfig]

    @classmethod
    def of(cls, trunk_hash: str, settings: JobSettings, runs: Iterable[Run]) -> Identity:
        """What tells the files of a job of these runs from another's."""
        return cls(trunk_hash, settings, {run.id: run.config for run in runs})

    def hash(self, runs: Iterable[str]) -> str:
        """Of the job with these of its runs alone, so that a sweep can grow; `KeyError` for a run it has not.

        What is left at its default does not count: so a setting that a later version adds changes no hash. The trunk
        counts by its weights and not by its name.
        """
        flags = {}
        for key, flag in JOB_FLAGS.items():
            value = getattr(self.settings, flag.field)
            if flag.hashed and not flag.free and value != flag.default:
                flags[key] = _last(value) if flag.kind is PLACE else value
        content = {"trunk": self.trunk_hash, "flags": flags, "runs": {name: _chosen(self.runs[name]) for name in runs}}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _last(value: str | list[str]) -> str | list[str]:
    """What data are called: they may move, and where they lie does not count."""
    return Path(value).name if isinstance(value, str) else [Path(path).name for path in value]


def _chosen(config: RunConfig) -> dict[str, Any]:
    values = config.to_json()
    defaults = {field.name: field.default for field in fields(config) if field.default is not MISSING}
    return {key: value for key, value in values.items() if key not in defaults or value != defaults[key]}
