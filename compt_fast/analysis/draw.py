"""Pictures: heat maps with their numbers, curves and dots with error bars, as SVG and PNG.

Colours are told apart by colour-blind readers (Okabe and Ito's set; single-hue or purple-orange scales), and markers
tell lines apart in grey. Widths are those of a phone held upright, so that text stays legible when a picture fills it.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from compt_fast.analysis.contrasts import Point, Series

INK, PAPER = "#010203", "#fefdfc"  # within the page they become its own text colour and nothing
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B", "#882255", "#999933")
_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*", "h")
MOST_LINES = len(_COLOURS)
STYLE: Any = {  # matplotlib types its keys one by one
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "legend.frameon": False,
    "text.parse_math": False,  # labels are text, dollar signs and all
    "svg.fonttype": "none",  # text stays text: searchable, and a tenth of the size
    "svg.hashsalt": "compt_fast",  # the same numbers give the same file
}
_PNG_DPI = 160
_NO_BLOCKS: Mapping[int, str] = {}
_NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


_colours = functools.cache(colormaps.__getitem__)  # which makes a copy, and a cell asks


@dataclass(frozen=True)
class Scale:
    """How values become colours."""

    colours: str
    low: float
    high: float

    def at(self, value: float) -> tuple[float, float, float]:
        """The colour of a value; beyond the ends, that of the end."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low or 1)
        red, green, blue, _ = _colours(self.colours)(share)
        return float(red), float(green), float(blue)


SHARE = Scale("Blues", 0.0, 1.1)
SCORE = Scale("YlGnBu", 0.0, 110.0)
COSINE = Scale("PuOr_r", -1.15, 1.15)


Square = tuple[list[tuple[float, float]], tuple[float, float, float]]


def around_zero(values: Sequence[Sequence[float | None]]) -> Scale:
    """A scale for differences: as far up as down."""
    largest = max((abs(v) for row in values for v in row if v is not None), default=1.0)
    return Scale("PuOr_r", -1.2 * (largest or 1), 1.2 * (largest or 1))


def between(values: Sequence[Sequence[float | None]]) -> Scale:
    """A scale from the lowest value to a little beyond the highest, so that numbers stay legible."""
    known = [v for row in values for v in row if v is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    return Scale("YlGnBu", low, high + 0.15 * (high - low or 1))


def heatmap(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    scale: Scale,
    label: str,
    decimals: int = 2,
    gaps: Sequence[int] = (),
    blocks: Mapping[int, str] = _NO_BLOCKS,
    row_label: str = "",
) -> Figure:
    """A cell a value, its number in it. Before each column of `gaps` stands a gap, and before each row of `blocks`
    one with a heading, if it has any.
    """
    left = [c + 0.3 * sum(g <= c for g in gaps) for c in range(len(columns))]
    top = [r + sum(0.85 if head else 0.4 for g, head in blocks.items() if g <= r) for r in range(len(rows))]
    width, height = (left[-1] if left else 0) + 1, (top[-1] if top else 0) + 1
    names = 0.078 * max((len(name) for name in rows), default=1) + 0.3
    with matplotlib.rc_context(STYLE):
        head = 0.05 * max((len(name) for name in columns), default=1) + 0.15
        wide = max(names + 0.43 * width + 0.35, 0.07 * len(label) + 0.3)
        figure = Figure(figsize=(wide, head + 0.29 * height + 0.35), layout=ConstrainedLayoutEngine(w_pad=0.12))
        axes = figure.add_subplot()
        squares = [
            square
            for r, row in enumerate(values)
            for c, value in enumerate(row)
            if (square := _cell(axes, left[c], top[r], value, scale, decimals)) is not None
        ]
        corners, colours = zip(*squares, strict=True) if squares else ((), ())
        axes.add_artist(PolyCollection(corners, facecolors=colours, edgecolors="none", clip_on=False, in_layout=False))
        for row_number, heading in blocks.items():
            axes.text(0, top[row_number] - 0.18, heading, fontstyle="italic", fontsize=8.5)
        axes.set(xlim=(0, width), ylim=(height, 0), ylabel=row_label)
        figure.supxlabel(label, fontsize=9)
        axes.set_xticks([x + 0.5 for x in left], columns, rotation=38, ha="left", rotation_mode="anchor")
        axes.set_yticks([y + 0.5 for y in top], rows)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


def _cell(axes: Axes, x: float, y: float, value: float | None, scale: Scale, decimals: int) -> Square | None:
    """Write a value into its cell; returns the corners and the colour of what stands behind it."""
    # What lies inside the axes is left out of the layout: to measure it takes long and changes nothing.
    centre: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7.5, "in_layout": False}
    if value is None:
        axes.text(x + 0.5, y + 0.52, "–", **centre)
        return None
    colour = scale.at(value)
    text = f"{value:.{decimals}f}".replace("-0.00", "0.00")
    axes.text(x + 0.5, y + 0.52, text, color="white" if is_dark(colour) else "black", **centre)
    low, high = (x + 0.02, y + 0.02), (x + 0.98, y + 0.98)
    return [low, (high[0], low[1]), high, (low[0], high[1])], colour


def is_dark(colour: tuple[float, float, float]) -> bool:
    """Whether white stands out from an sRGB colour better than black (WCAG 2: at least 4.5 to 1)."""
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return (luminance + 0.05) ** 2 < 0.05 * 1.05


def curves(lines: Sequence[Series], *, xlabel: str, ylabel: str, level: Sequence[Series] = ()) -> Figure:
    """A line a series over its setting's values, evenly spaced; error bars are standard deviations over seeds.

    Each of `level` has one point, whose value does not matter: a dashed line across.
    """
    ticks = list(dict.fromkeys(point.x for line in lines for point in line.points))
    ticks.sort(key=lambda x: (x is None, x if isinstance(x, int | float) else str(x)))
    place = {x: k for k, x in enumerate(ticks)}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.5, 3.0 + 0.1 * (len(lines) + len(level))), layout="constrained")
        axes = figure.add_subplot()
        for k, line in enumerate(lines):
            # Error bars stand beside each other, not over each other.
            aside = min(0.06, 0.4 / len(lines)) * (k - (len(lines) - 1) / 2)
            axes.errorbar(
                [place[point.x] + aside for point in line.points],
                [point.mean for point in line.points],
                [point.sd for point in line.points],
                label=line.label,
                color=_COLOURS[k % MOST_LINES],
                marker=_MARKERS[k % MOST_LINES],
                markersize=5,
                linewidth=1.6,
                elinewidth=0.9,
                capsize=2,
            )
        for k, line in enumerate(level):
            style = ("--", ":", "-.")[k % 3]
            axes.axhline(line.points[0].mean, label=line.label, color=INK, linestyle=style, linewidth=1.1, alpha=0.7)
        axes.set_xticks(range(len(ticks)), ["all" if x is None else f"{x}" for x in ticks])
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.grid(axis="y", alpha=0.25)
        _legend(figure, [line.label for line in (*lines, *level)])
    return figure


def _legend(figure: Figure, names: Sequence[str]) -> None:
    """Below the picture, in as many columns as fit."""
    columns = max(1, 54 // (max(map(len, names)) + 8))
    figure.legend(loc="outside lower center", ncols=min(columns, len(names)))


def dots(rows: Sequence[str], levels: Mapping[str, Sequence[Point | None]], *, xlabel: str) -> Figure:
    """A row a name with a dot for each level, error bars over seeds; a single level has its numbers beside it."""
    with matplotlib.rc_context(STYLE):
        step = 0.15 * len(levels) + 0.13
        width = 4.5 + 0.055 * max(0, max(map(len, rows)) - 16)
        figure = Figure(figsize=(width, 0.75 + step * len(rows) + 0.2 * (len(levels) > 1)), layout="constrained")
        axes = figure.add_subplot()
        for k, (level, points) in enumerate(levels.items()):
            aside = (k - (len(levels) - 1) / 2) * 0.7 / len(levels)
            there = [(r, point) for r, point in enumerate(points) if point is not None]
            axes.errorbar(
                [point.mean for _, point in there],
                [r + aside for r, _ in there],
                xerr=[point.sd for _, point in there],
                label=level,
                color=_COLOURS[k % MOST_LINES],
                marker=_MARKERS[k % MOST_LINES],
                linestyle="none",
                elinewidth=1.1,
                capsize=2,
            )
            for r, point in there if len(levels) == 1 else []:
                spread = f" ±{point.sd:.1f}" if len(point.scores) > 1 else ""
                axes.annotate(
                    f"{point.mean:.1f}{spread}",
                    (1.01, r),
                    xycoords=("axes fraction", "data"),
                    va="center",
                    fontsize=8,
                    annotation_clip=False,
                )
        axes.set_yticks(range(len(rows)), rows)
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=xlabel)
        axes.grid(alpha=0.25)
        if len(levels) > 1:
            _legend(figure, list(levels))
    return figure


def png(figure: Figure) -> bytes:
    """The picture as a PNG file."""
    return _saved(figure, "png", dpi=_PNG_DPI)


def svg(figure: Figure) -> str:
    """The picture as an SVG file."""
    return _saved(figure, "svg", metadata=_NO_METADATA).decode()


def _saved(figure: Figure, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        layout = figure.get_layout_engine()
        if layout is not None:  # once for all files; each would draw twice over to do it anew
            layout.execute(figure)
            figure.set_layout_engine("none")
        figure.savefig(out, format=kind, **options)
    return out.getvalue()


def inline(text: str, name: str, alt: str) -> str:
    """An SVG file as an element of a page: ids its own, colours the page's, nothing that names an address."""
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text[text.index("<svg") :], flags=re.DOTALL)
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', body)
    kept = {own for pair in used for own in pair}
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in kept else "", body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', body).replace("xlink:href", "href")
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", body)
    body = body.replace(INK, "currentColor").replace(PAPER, "none")
    quoted = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return body.replace("<svg", f'<svg role="img" aria-label="{quoted}"', 1)
