"""Which runs differ in one setting alone, and how their averages compare."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from compt_fast.analysis.runs import Entry
from compt_fast.analysis.words import examples
from compt_fast.utils.words import plural

Settings = tuple[tuple[str, Any], ...]

# How a setting is named in a label, the telling ones first; the others stand as "name value".
_WORDS = {
    "sources": "N={}",
    "shots": "{}",
    "router": "{} weights",
    "gates": "{} gates",
    "label_mode": "{} labels",
    "prefix": "{}",
    "lr_source": "source rate {}",
    "lr_private": "private rate {}",
    "lr_router": "router rate {}",
}


@dataclass(frozen=True)
class Point:
    """A setting's value and the average scores (percent) of its runs, one a seed.

    `chosen` are the scores on the development sample, where those say what is best.
    """

    x: Any
    scores: tuple[float, ...]
    chosen: tuple[float, ...] = ()

    @classmethod
    def of(cls, x: Any, entries: Iterable[Entry]) -> Point:
        """The point of some runs that differ in their seed alone."""
        entries = list(entries)
        development = [entry.development for entry in entries if entry.by == "development"]
        return cls(x, tuple(e.average for e in entries), tuple(score for score in development if score is not None))

    @property
    def by(self) -> str:
        """Which scores say what is best."""
        return "development" if self.chosen else "test"

    @property
    def rank(self) -> float:
        """What is highest of the best: the mean of the scores that `by` names."""
        return statistics.fmean(self.chosen or self.scores)

    @property
    def says(self) -> str:
        """Its mean in words, with the one that it was chosen by before it."""
        test = f"{self.mean:.1f} %"
        return f"{self.rank:.1f} % in development, {test} in the test" if self.chosen else test

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.scores)

    @property
    def sd(self) -> float:
        """Sample standard deviation over the seeds; 0 for one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


@dataclass(frozen=True)
class Series:
    """Runs that differ in one setting and the seed: a point for each of its values, in order."""

    label: str
    points: tuple[Point, ...]

    @property
    def best(self) -> Point:
        """The best point, by test or development scores."""
        return max(self.points, key=lambda point: point.rank)


def settings(entry: Entry, *without: str) -> Settings:
    """Everything that decides a run's outcome but its seed and the settings `without`.

    What follows from one of these is no second difference: the epochs that few shots double, unless
    a flag named them, and sources that are as many as the tasks.
    """
    own = dict(entry.settings)
    if "shots" in without and "epochs" not in entry.job.sweep.values:
        own["epochs"] = "of the preset"
    if "tasks" in without and entry.sources_grow:
        own["sources"] = "one a task"
    return tuple((name, value) for name, value in own.items() if name not in {"seed", *without})


def grouped(entries: Iterable[Entry], *without: str) -> dict[Settings, list[Entry]]:
    """Entries by `settings`, in the order of their first ones."""
    groups: dict[Settings, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(settings(entry, *without), []).append(entry)
    return groups


def points(entries: Sequence[Entry], factor: str) -> tuple[Point, ...]:
    """The entries' averages by their value of `factor`, in ascending order (`full` shots last)."""
    own: dict[Any, list[Entry]] = {}
    for entry in entries:
        own.setdefault(entry.settings[factor], []).append(entry)
    ordered = sorted(own, key=lambda value: (value is None, value if isinstance(value, int | float) else str(value)))
    return tuple(Point.of(value, own[value]) for value in ordered)


def series(entries: Iterable[Entry], factor: str) -> list[Series]:
    """A series for each group of runs in which `factor`, and nothing else, takes two or more values."""
    found = {key: points(group, factor) for key, group in grouped(entries, factor).items()}
    found = {key: of for key, of in found.items() if len(of) > 1}
    return [Series(label, of) for label, of in zip(labels(list(found)), found.values(), strict=True)]


def labels(keys: Sequence[Settings]) -> list[str]:
    """A short name for each group of settings: its method, and what tells it from others of that method.

    Of the settings in which groups of one method differ, as few are named as tell them all apart,
    the telling ones of the papers first; what follows from another setting is not said again.
    """
    maps = [dict(key) for key in keys]
    by_method: dict[Any, list[dict[str, Any]]] = {}
    for own in maps:
        by_method.setdefault(own.get("method"), []).append(own)
    telling = {method: _telling(group) for method, group in by_method.items()}
    named = []
    for own in maps:
        method = own.get("method")
        parts = [] if method is None else [str(method)]
        parts += [_said(name, own.get(name)) for name in telling[method]]
        named.append(", ".join(parts) or "all runs")
    return named


def _telling(group: Sequence[dict[str, Any]]) -> list[str]:
    """The names of settings that tell the members of a group apart, none in vain."""
    open_pairs = list(itertools.combinations(group, 2))
    chosen = []
    names = dict.fromkeys([*_WORDS, *(name for own in group for name in own)])
    for name in names:
        left = [(a, b) for a, b in open_pairs if a.get(name) == b.get(name)]
        if len(left) < len(open_pairs):
            chosen.append(name)
            open_pairs = left
    return chosen


def _said(name: str, value: Any) -> str:
    if name == "prefix":
        return "prefix" if value else "no prefix"
    if name == "shots":
        return examples(value)
    if name == "tasks":
        return plural(len(value), "task")
    if name == "trunk":
        return f"trunk {value[:8]}"  # of a hash
    return _WORDS.get(name, name.replace("_", " ") + " {}").format(value)
