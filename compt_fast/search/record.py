"""`search.json`: what a search has tried and found, for those who read a run folder."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from scipy import stats

from compt_fast.config.choices import SAMPLER_NAMES
from compt_fast.search.space import Space, space_of
from compt_fast.search.trials import Trial
from compt_fast.utils.errors import InputError, unknown
from compt_fast.utils.inputs import check_type, read_object

NAME = "search.json"
FORMAT = 1
CONFIDENCE = 0.95


@dataclass
class Record:
    """The space of a search, what chose from it, and its trials.

    Once all have ended, `best` is the number of the trial that is trained with fresh seeds, in the runs `confirming`.
    """

    space: Space
    sampler: str
    seed: int
    trials: list[Trial] = field(default_factory=list)
    best: int | None = None
    confirming: list[str] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """What changes as the search goes on, as plain JSON values."""
        trials = [trial.to_json() for trial in self.trials]
        return {"trials": trials, "best": self.best, "confirming": list(self.confirming)}

    def restore(self, state: Mapping[str, Any], where: str) -> None:
        """Go back to what `state` gave; `InputError` that begins with `where` for anything else."""
        check_type(state.get("trials"), list[Any], f"{where}: trials")
        check_type(state.get("best"), int | None, f"{where}: best")
        check_type(state.get("confirming"), list[str], f"{where}: confirming")
        self.trials = [Trial.from_json(entry, f"{where}: trial {n}") for n, entry in enumerate(state["trials"])]
        self.best, self.confirming = state["best"], list(state["confirming"])

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        space = {"space": self.space.content, "fixed": dict(self.space.fixed)}
        return {"format": FORMAT, **space, "sampler": self.sampler, "seed": self.seed, **self.state()}

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """That of a run folder, None where none is; `InputError` for a damaged one."""
        path = folder / NAME
        if not path.exists():
            return None
        content = read_object(path, "the record of a search")
        for key, kind in {"space": dict, "fixed": dict, "sampler": str, "seed": int}.items():
            check_type(content.get(key), kind, f"{path}: {key}")
        if content["sampler"] not in SAMPLER_NAMES:
            raise unknown(f"sampler in {path}:", content["sampler"], SAMPLER_NAMES)
        found = cls(space_of(content["space"], f"{path}: space", content["fixed"]), content["sampler"], content["seed"])
        found.restore(content, str(path))
        names = {axis.name for axis in found.space.every_axis()}
        for number, trial in enumerate(found.trials):
            if trial.number != number or not trial.point.keys() <= names:
                raise InputError(f"{path}: trial {number}: not one of this space")
        return found


@dataclass(frozen=True)
class Interval:
    """Mean of scores and the half width of the interval that holds the true mean with 95 % confidence, by Student's t;
    None of a single score.
    """

    mean: float
    half: float | None

    @classmethod
    def of(cls, scores: Sequence[float]) -> Self:
        """That of some scores, one at least."""
        if len(scores) < 2:
            return cls(statistics.fmean(scores), None)
        quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(scores) - 1))
        return cls(statistics.fmean(scores), quantile * statistics.stdev(scores) / len(scores) ** 0.5)

    def __str__(self) -> str:
        if self.half is None:
            return f"{self.mean:.1f}"
        return f"{self.mean:.1f} ± {self.half:.1f} ({self.mean - self.half:.1f} to {self.mean + self.half:.1f})"
