"""Pictures of a search: its trials as lines through their values, and its regret."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from compt_fast.analysis.draw import INK, STYLE
from compt_fast.search.trials import shown

_COLOURS = colormaps["viridis_r"]


def parallel(names: Sequence[str], lines: Sequence[tuple[float, Sequence[Any]]], *, label: str) -> Figure:
    """A line a trial through its value on every axis, coloured by its score, the last ones on top.

    `lines` are scores and values; None is an axis that a trial has no value on, where its line is broken. Numbers of
    an axis stand by their rank, as ranges may be logarithmic, and words by the alphabet.
    """
    places, ticks = zip(*(_places([values[k] for _, values in lines]) for k in range(len(names))), strict=True)
    scores = [score for score, _ in lines]
    norm = Normalize(min(scores), max(scores))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(4.5, 0.9 * len(names) + 1.2), 3.6), layout="constrained")
        axes = figure.add_subplot()
        for score, values in lines:
            heights = [place.get(value, float("nan")) for place, value in zip(places, values, strict=True)]
            colour = _COLOURS(norm(score))
            axes.plot(range(len(names)), heights, color=colour, marker="o", markersize=2.5, linewidth=1, alpha=0.7)
        for k, of in enumerate(ticks):
            axes.axvline(k, color=INK, linewidth=0.8)
            for height, text in of:
                axes.text(k + 0.04, height, text, fontsize=7.5, va="center")
        axes.set_xticks(range(len(names)), names, rotation=25, ha="right", rotation_mode="anchor")
        axes.set(yticks=[], ylim=(-0.06, 1.06), xlim=(-0.2, len(names) - 0.4))
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(ScalarMappable(norm, _COLOURS), ax=axes, label=label, shrink=0.9)
        assert bar.solids is not None
        bar.solids.set_rasterized(False)  # a page has pictures of lines alone
    return figure


def _places(values: Sequence[Any]) -> tuple[dict[Any, float], list[tuple[float, str]]]:
    """The height (0 to 1) of each value of an axis, and up to five heights with what stands there."""
    known = {value for value in values if value is not None}
    order = sorted(known, key=lambda value: (isinstance(value, str), value))
    heights = {value: k / max(1, len(order) - 1) for k, value in enumerate(order)}
    count = min(5, len(order))
    named = [order[round(k * (len(order) - 1) / max(1, count - 1))] for k in range(count)]
    return heights, [(heights[value], shown(value)) for value in named]


def steps(points: Sequence[tuple[float, float]], end: float, *, xlabel: str, ylabel: str) -> Figure:
    """A line that falls at each of some points (x, y) and stays there until the next, the last one until `end`."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.5, 3.0), layout="constrained")
        axes = figure.add_subplot()
        across, down = zip(*points, strict=True)
        axes.step([*across, end], [*down, down[-1]], where="post", color="#0072B2", linewidth=1.6)
        axes.plot(across, down, "o", color="#0072B2", markersize=4)
        axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, None))
        axes.grid(alpha=0.25)
    return figure
