"""One choice against another, all else equal: learning rates, router, gates, prefix, labels, a task more or less."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import permutations
from typing import Any

from compt_fast.analysis import draw
from compt_fast.analysis.about_scores import AVERAGE, MOST_ROWS, line_exhibits, metric, panels
from compt_fast.analysis.contrasts import Point, Series, Settings, grouped, labels, points, series
from compt_fast.analysis.exhibits import Cell, Exhibit, Section, Table
from compt_fast.analysis.runs import Entry, Material, suite_name
from compt_fast.analysis.words import slug
from compt_fast.config.choices import GATE_NAMES, LABEL_MODES, ROUTER_NAMES
from compt_fast.utils.words import listed, short

_RATES = {"lr_source": "source", "lr_private": "private", "lr_router": "router"}


def rates(material: Material) -> Section | None:
    """Averages by learning rates: a grid where two vary (CrossPT, figure 11), else curves (ComPT, figure 6)."""
    exhibits = []
    for suite, entries in panels(material).items():
        grids = {}
        for key, group in grouped(entries, "lr_source", "lr_private").items():
            if all(len({entry.settings[rate] for entry in group}) > 1 for rate in ("lr_source", "lr_private")):
                grids[key] = group
        for label, group in zip(labels(list(grids)), grids.values(), strict=True):
            exhibits.append(_grid(suite, label, group))
        left = [entry for entry in entries if not any(entry in group for group in grids.values())]
        for rate, name in _RATES.items():
            lines = series(left, rate)
            stem = f"rates {name} {suite}"
            xlabel = f"peak learning rate of the {name}"
            exhibits += line_exhibits(lines, stem, f"{suite}: {name} rate", left, xlabel, _rates_say)
    return Section("Learning rates", "Averages by the peak learning rates.", exhibits) if exhibits else None


def _rates_say(lines: Sequence[Series]) -> str:
    best = [f"{line.label} at {line.best.x} ({line.best.says})" for line in lines[:4]]
    worst = max(line.best.rank - min(point.rank for point in line.points) for line in lines)
    return f"Best by {lines[0].best.by} scores is {listed(best)}; the worst rate costs up to {worst:.1f} points."


def _grid(suite: str, label: str, entries: list[Entry]) -> Exhibit:
    across = [point.x for point in points(entries, "lr_source")]
    down = [point.x for point in points(entries, "lr_private")]
    cells: dict[tuple[Any, Any], list[Entry]] = {}
    for entry in entries:
        cells.setdefault((entry.config.lr_private, entry.config.lr_source), []).append(entry)
    found = {at: Point.of(None, own) for at, own in cells.items()}
    values = [[found[p, s].mean if (p, s) in found else None for s in across] for p in down]
    rows: list[list[Cell]] = [[str(p), *row] for p, row in zip(down, values, strict=True)]
    private, source = max(found, key=lambda at: found[at].rank)
    worst = min(found, key=lambda at: found[at].rank)
    best = found[private, source]
    ratio = f", a private rate {private / source:.2g} times the source rate" if source else ""
    return Exhibit(
        slug(f"rates {suite} {label}"),
        f"{suite}: {label}",
        f"By {best.by} scores {label} is best with source rate {source} and private rate {private} "
        f"({best.says}{ratio}), worst with {worst[1]} and {worst[0]} ({found[worst].says}).",
        metric(entries),
        Table(["private rate \\ source rate", *map(str, across)], rows),
        draw.heatmap(
            values,
            [str(p) for p in down],
            [str(s) for s in across],
            scale=draw.between(values),
            label="source rate (across); " + AVERAGE,
            row_label="private rate",
            decimals=1,
        ),
    )


_ROUTERS = {"direct": "learned weights", "constant": "constant weights", "relaxed-bernoulli": "sampled weights"}
_LEVELS: dict[str, dict[Any, str]] = {
    "router": {name: _ROUTERS.get(name, f"{name} weights") for name in ROUTER_NAMES},
    "gates": {name: f"{name} gates" for name in GATE_NAMES},
    "prefix": {True: "prefix", False: "no prefix"},
    "label_mode": {name: f"{name} labels" for name in LABEL_MODES},
}


def router(material: Material) -> Section | None:
    """Constant against learned weights (ComPT, figure 4, top)."""
    return _choice(material, "router", "Learned against constant source weights")


def gates(material: Material) -> Section | None:
    """Fixed against learned gates (ComPT, figure 4, bottom)."""
    return _choice(material, "gates", "Gates: fixed against learned")


def prefix(material: Material) -> Section | None:
    """With and without the task's name before the text (CrossPT, figure 5)."""
    return _choice(material, "prefix", "Task prefix")


def label_modes(material: Material) -> Section | None:
    """Natural, synthetic and numeric labels (CrossPT, figure 6)."""
    return _choice(material, "label_mode", "Label words")


def _choice(material: Material, factor: str, title: str) -> Section | None:
    exhibits = []
    for suite, entries in panels(material).items():
        found = {key: group for key, group in grouped(entries, factor).items() if len(points(group, factor)) > 1}
        if not found:
            continue
        pairs = dict(zip(found, (points(group, factor) for group in found.values()), strict=True))
        exhibits.append(_pairs(suite, factor, pairs, entries))
        for axis, xlabel in (("shots", "shots a task"), ("sources", "number of source prompts N")):
            exhibits += _along(suite, factor, axis, xlabel, [entry for group in found.values() for entry in group])
    return Section(title, "Runs that differ in this alone, side by side.", exhibits) if exhibits else None


def _pairs(suite: str, factor: str, pairs: dict[Settings, tuple[Point, ...]], entries: Sequence[Entry]) -> Exhibit:
    names = labels(list(pairs))
    values = [value for value in _LEVELS[factor] if any(point.x == value for of in pairs.values() for point in of)]
    by_value = [{point.x: point for point in of} for of in pairs.values()]
    levels = {_LEVELS[factor][value]: [of.get(value) for of in by_value[:MOST_ROWS]] for value in values}
    rows: list[list[Cell]] = [
        [name, _LEVELS[factor][point.x], point.mean, point.sd if len(point.scores) > 1 else None, len(point.scores)]
        for name, of in zip(names, pairs.values(), strict=True)
        for point in of
    ]
    return Exhibit(
        slug(f"{factor} {suite}"),
        suite,
        _duel([_LEVELS[factor][value] for value in values], [[of.get(value) for value in values] for of in by_value]),
        metric(entries),
        Table(["run", factor.replace("_", " "), "mean", "sd", "seeds"], rows),
        draw.dots(names[:MOST_ROWS], levels, xlabel=AVERAGE),
    )


def _duel(levels: Sequence[str], rows: Sequence[Sequence[Point | None]]) -> str:
    """Which level wins how often, and by how much over each other one."""
    wins = [0] * len(levels)
    for row in rows:
        means = [-1e9 if point is None else point.rank for point in row]
        wins[means.index(max(means))] += 1
    top = wins.index(max(wins))
    against = []
    for k, level in enumerate(levels):
        gaps = [a.rank - b.rank for a, b in ((row[top], row[k]) for row in rows) if a is not None and b is not None]
        if k != top and gaps:
            span = f" ({min(gaps):+.1f} to {max(gaps):+.1f})" if len(gaps) > 1 else ""
            against.append(f"{statistics.fmean(gaps):+.1f} points against {level}{span}")
    comparisons = "the one comparison" if len(rows) == 1 else f"{wins[top]} of {len(rows)} comparisons"
    by = next(point.by for row in rows for point in row if point is not None)
    return f"Ahead by {by} scores in {comparisons}: {levels[top]}, on average {listed(against)}."


def _along(suite: str, factor: str, axis: str, xlabel: str, entries: list[Entry]) -> list[Exhibit]:
    """The same contrast along another setting, a picture for each group that differs in these two alone."""
    exhibits = []
    groups = {
        key: group
        for key, group in grouped(entries, factor, axis).items()
        if len(points(group, axis)) > 1 and len(points(group, factor)) > 1
    }
    for label, group in zip(labels(list(groups)), groups.values(), strict=True):
        lines = []
        for value in _LEVELS[factor]:
            own = points([entry for entry in group if entry.settings[factor] == value], axis)
            if own:
                lines.append(Series(_LEVELS[factor][value], own))
        stem = f"{factor} by {axis} {suite} {label}"
        exhibits += line_exhibits(lines, stem, f"{suite}: {label}, by {axis}", entries, xlabel, _along_say)
    return exhibits


def _along_say(lines: Sequence[Series]) -> str:
    shared = [x for x in (point.x for point in lines[0].points) if all(x in [p.x for p in of.points] for of in lines)]
    leaders = []
    for x in shared:
        means = {of.label: next(point.rank for point in of.points if point.x == x) for of in lines}
        lead = max(means, key=lambda name: means[name])
        gap = means[lead] - min(means.values())
        leaders.append(f"{lead if gap >= 0.05 else 'none'} at {'all' if x is None else x} (by {gap:.1f})")
    if not leaders:
        return "The two were not trained at the same values."
    return f"Ahead by {lines[0].points[0].by} scores: {listed(leaders)}."


def inclusion(material: Material) -> Section | None:
    """What a further task does to the scores of the others (ComPT, table 8)."""
    exhibits = []
    for small, large in permutations(dict.fromkeys(entry.tasks for entry in material.entries), 2):
        if set(small) < set(large):
            both = [entry for entry in material.entries if entry.tasks in (small, large)]
            found = {
                key: group
                for key, group in grouped(both, "tasks").items()
                if {entry.tasks for entry in group} == {small, large}
            }
            if found:
                exhibits.append(_included(small, large, found))
    if not exhibits:
        return None
    return Section(
        "A task more", "The same runs with and without a further task, on the tasks that both have.", exhibits
    )


def _flipped(names: Sequence[str], groups: Sequence[list[Entry]], small: tuple[str, ...], added: str) -> str:
    """A sentence where the further task changed more than the tasks: what `auto` makes of the router."""
    changed: dict[tuple[str | None, str | None], list[str]] = {}
    for name, group in zip(names, groups, strict=True):
        without, with_it = (
            next(entry.normaliser for entry in group if (entry.tasks == small) == is_small)
            for is_small in (True, False)
        )
        if without != with_it:
            changed.setdefault((without, with_it), []).append(name)
    parts = [f"{after} with {added} and {before} without, in {listed(of)}" for (before, after), of in changed.items()]
    return f" Not alike but for the tasks: the router normalises by {listed(parts)}." if parts else ""


def _included(small: tuple[str, ...], large: tuple[str, ...], found: dict[Settings, list[Entry]]) -> Exhibit:
    further = [task for task in large if task not in small]
    names = labels(list(found))
    heads = short(small)
    rows: list[list[Cell]] = []
    changes: list[list[float | None]] = []
    for name, group in zip(names, found.values(), strict=True):
        means = []
        for tasks, said in ((large, "with"), (small, "without")):
            own = [entry for entry in group if entry.tasks == tasks]
            scores = [statistics.fmean(entry.score(task) for entry in own) for task in small]
            means.append([statistics.fmean(scores), *scores])
            rows.append([name, said, *means[-1]])
        changes.append([a - b for a, b in zip(*means, strict=True)])
    added = listed(short(further))
    gains = [f"{name} by {row[0]:+.1f}" for name, row in zip(names, changes, strict=True)][:4]
    by_task = [statistics.fmean(row[k + 1] or 0.0 for row in changes) for k in range(len(small))]
    most = max(range(len(small)), key=lambda k: abs(by_task[k]))
    entries = next(iter(found.values()))
    base = next(entry for entry in entries if entry.tasks == small)
    return Exhibit(
        slug(f"including {added} {suite_name(base.job)}"),
        f"{suite_name(base.job)}: with and without {added}",
        f"With {added} the average of the other tasks moves for {listed(gains)} points; {heads[most]} moves most "
        f"({by_task[most]:+.1f}).{_flipped(names, list(found.values()), small, added)}",
        "primary scores in percent, means over seeds; "
        + ", ".join(f"{h}: {base.metric(t)}" for h, t in zip(heads, small, strict=True)),
        Table(["run", added, "average", *heads], rows),
        draw.heatmap(
            changes,
            names,
            ["average", *heads],
            scale=draw.around_zero(changes),
            label=f"points gained with {added}",
            decimals=1,
            gaps=[1],
        ),
    )
