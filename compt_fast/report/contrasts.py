"""Which runs differ in one setting alone, and how their averages compare."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from compt_fast.report.runs import Entry
from compt_fast.report.words import examples
from compt_fast.words import plural

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
_FEW_SHOTS_DOUBLE = {"shots": ("epochs",)}  # a setting that follows from another is no second difference


@dataclass(frozen=True)
class Point:
    """A setting's value and the average scores (percent) of its runs, one a seed."""

    x: Any
    scores: tuple[float, ...]

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
        """The point of the highest mean."""
        return max(self.points, key=lambda point: point.mean)


def settings(entry: Entry, *without: str) -> Settings:
    """Everything that decides a run's outcome but its seed and the settings `without`."""
    dropped = {"seed", *without, *(name for key in without for name in _FEW_SHOTS_DOUBLE.get(key, ()))}
    return tuple((name, value) for name, value in entry.settings.items() if name not in dropped)


def grouped(entries: Iterable[Entry], *without: str) -> dict[Settings, list[Entry]]:
    """Entries by `settings`, in the order of their first ones."""
    groups: dict[Settings, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(settings(entry, *without), []).append(entry)
    return groups


def points(entries: Sequence[Entry], factor: str) -> tuple[Point, ...]:
    """The entries' averages by their value of `factor`, in ascending order (`full` shots last)."""
    scores: dict[Any, list[float]] = {}
    for entry in entries:
        scores.setdefault(entry.settings[factor], []).append(entry.average)
    ordered = sorted(scores, key=lambda value: (value is None, value if isinstance(value, int | float) else str(value)))
    return tuple(Point(value, tuple(scores[value])) for value in ordered)


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
