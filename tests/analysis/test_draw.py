"""Pictures: what stands in them, and that they fit into a page."""

from __future__ import annotations

import re

import pytest
from matplotlib.layout_engine import ConstrainedLayoutEngine

from compt_fast.analysis import draw
from compt_fast.analysis.contrasts import Point, Series

LINES = [
    Series("spp", (Point(8, (60.0, 62.0)), Point(16, (65.0,)))),
    Series("pt", (Point(16, (55.0,)), Point(None, (70.0,)))),
]


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_a_heat_map_has_its_numbers_names_and_what_they_are() -> None:
    figure = draw.heatmap(
        [[0.25, -1.0, None], [0.0, -0.001, 0.999]],
        ["rte", "qnli"],
        ["S1", "S2", "private"],
        scale=draw.COSINE,
        label="cosine similarity",
        gaps=[2],
        blocks={1: "below"},
    )
    found = texts(draw.svg(figure))
    assert {"rte", "qnli", "S1", "S2", "private", "cosine similarity", "below"} <= set(found)
    assert {"0.25", "-1.00", "–", "0.00", "1.00"} <= set(found) and "-0.00" not in found
    assert len(draw.png(figure)) > 2000 and draw.png(figure).startswith(b"\x89PNG")


def test_dollar_signs_are_text() -> None:
    """As mathematics the first would lose its signs, and the second end with a ParseSyntaxException."""
    names = ["a $5 or $10 offer", "$\\frac$"]
    heat = draw.heatmap([[1.0], [2.0]], names, ["$x$"], scale=draw.SCORE, label="$y_0$", blocks={0: "$z$"})
    assert {*names, "$x$", "$y_0$", "$z$"} <= set(texts(draw.svg(heat)))
    lines = [Series(name, (Point(8, (1.0,)), Point(16, (2.0,)))) for name in names]
    assert set(names) <= set(texts(draw.svg(draw.curves(lines, xlabel="$", ylabel="$", level=lines[:1]))))
    dots = draw.dots(names, {name: [Point(None, (1.0,))] * 2 for name in names}, xlabel="%")
    assert texts(draw.svg(dots)).count(names[1]) == 2 and draw.png(dots).startswith(b"\x89PNG")


def luminance(colour: tuple[float, float, float]) -> float:
    """Relative luminance of WCAG 2."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scale", [draw.SHARE, draw.SCORE, draw.COSINE, draw.around_zero([[-3.0, 2.0]])])
def test_numbers_stand_out_from_their_cells(scale: draw.Scale) -> None:
    """At least 4.5 to 1, in black or white, whichever the cell is given."""
    for k in range(101):
        value = scale.low + k / 100 * (scale.high - scale.low)
        colour = scale.at(value)
        cell, ink = luminance(colour), 1.0 if draw.is_dark(colour) else 0.0
        assert (max(cell, ink) + 0.05) / (min(cell, ink) + 0.05) >= 4.5, (value, colour)


def test_scales_are_even_around_zero_and_hold_all_values() -> None:
    scale = draw.around_zero([[-3.0, None], [2.0, 1.0]])
    assert scale.low == -scale.high and scale.high > 3
    inner = draw.between([[40.0, None, 60.0]])
    assert inner.low == 40 and inner.high > 60
    assert draw.between([[5.0]]).at(5.0) == draw.between([[5.0]]).at(4.0)


def test_curves_and_dots_name_their_lines_and_axes() -> None:
    level = [Series("mst", (Point(1, (44.4,)),))]
    found = texts(draw.svg(draw.curves(LINES, xlabel="shots a task", ylabel="average, %", level=level)))
    assert {"spp", "pt", "mst", "shots a task", "average, %", "8", "16", "all"} <= set(found)
    one = texts(draw.svg(draw.dots(["spp", "pt"], {"": [LINES[0].points[0], None]}, xlabel="average, %")))
    assert "61.0 ±1.4" in one and {"spp", "pt"} <= set(one)
    both = {"prefix": [LINES[0].points[0]], "no prefix": [LINES[1].points[0]]}
    assert {"prefix", "no prefix"} <= set(texts(draw.svg(draw.dots(["spp"], both, xlabel="average, %"))))


def test_the_same_numbers_give_the_same_file() -> None:
    first, second = (draw.svg(draw.curves(LINES, xlabel="x", ylabel="y")) for _ in range(2))
    assert first == second and "metadata" not in first


def test_an_inlined_picture_brings_nothing_that_belongs_to_the_page() -> None:
    text = draw.svg(draw.curves(LINES, xlabel="x", ylabel="y"))
    own = draw.inline(text, "shots-mini", 'spp "leads" & <pt> follows')
    assert "http" not in own and "<style" not in own and "xmlns" not in own
    assert own.startswith('<svg role="img" aria-label="spp &quot;leads&quot; &amp; &lt;pt> follows"')
    ids = re.findall(r'\bid="([^"]+)"', own)
    assert ids and all(name.startswith("shots-mini-") for name in ids) and len(ids) == len(set(ids))
    referred = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', own)
    assert {name for pair in referred for name in pair if name} == set(ids)
    assert draw.INK not in own and "currentColor" in own


def test_a_picture_is_laid_out_once_for_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    times = []
    execute = ConstrainedLayoutEngine.execute
    monkeypatch.setattr(
        ConstrainedLayoutEngine, "execute", lambda self, figure: times.append(1) or execute(self, figure)
    )
    figure = draw.heatmap([[0.5, None]], ["rte"], ["S1", "S2"], scale=draw.SHARE, label="weight")
    first = draw.svg(figure)
    assert draw.png(figure) and draw.svg(figure) == first and len(times) == 1
    assert draw.heatmap([[None]], ["rte"], ["S1"], scale=draw.SHARE, label="weight"), "nothing to colour"


def test_names_stay_within_the_picture() -> None:
    """The layout makes room for what stands outside of the cells."""
    figure = draw.heatmap([[0.5]], ["a row of a long name"], ["a column of a long name"], scale=draw.SHARE, label="x")
    draw.svg(figure)
    (axes,) = figure.axes
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        box = label.get_window_extent()
        assert box.x0 >= 0 and box.y1 <= figure.bbox.height and box.x1 <= figure.bbox.width
