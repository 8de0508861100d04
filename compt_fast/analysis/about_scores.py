"""Result tables, methods compared, shot curves and the number of sources."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from compt_fast.analysis import draw
from compt_fast.analysis.contrasts import Point, Series, grouped, labels, points, series
from compt_fast.analysis.exhibits import Cell, Exhibit, Section, Table
from compt_fast.analysis.runs import Entry, Material, many, metric_of, suite_name
from compt_fast.analysis.words import examples, slug, unused
from compt_fast.config.compositions import composed
from compt_fast.config.job import JOB_FLAGS
from compt_fast.runs.together import together
from compt_fast.training.results import RunResult, score_table
from compt_fast.utils.words import listed, plural, short

SAME = ("trunk", *(flag.field for flag in JOB_FLAGS.values() if flag.report == "panel"))
AVERAGE = "average of primary scores, %"
MOST_ROWS = 24
CELLS = (
    "percent; the metric stands in each head; mean ± standard deviation over seeds; bold: best of its column, of test "
    "scores but for the column named development"
)


def panels(material: Material) -> dict[str, list[Entry]]:
    """Entries that can be compared: of one set of tasks, one trunk and one way to score, by a title.

    A title is the suite, with a folder's name where several groups are of it. Where a folder holds
    several (tasks trained apart, of which some have not finished), the further ones are numbered.
    """
    found: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in material.entries:
        key = (suite_name(entry.job), entry.tasks, *(entry.settings[name] for name in SAME))
        found.setdefault(key, []).append(entry)
    suites = [key[0] for key in found]
    titled: dict[str, list[Entry]] = {}
    for (suite, *_), group in found.items():
        title = suite if suites.count(suite) == 1 else f"{suite} ({material.names[group[0].folder]})"
        titled[unused(title, titled, ", ")] = group
    return titled


def metric(entries: Sequence[Entry]) -> str:
    """What an average of these runs is made of."""
    return f"average of primary scores in percent ({metric_of(entries[0])}); mean ± standard deviation over seeds"


def results(material: Material) -> Section | None:
    """A table a run folder and shot count, as `results.md` has it, the best of each column marked; before them those
    of folders that have tasks in common, together.
    """
    exhibits = _joined(material)
    several = len(material.folders) > 1
    for folder in material.folders:
        own = [entry for entry in material.entries if entry.folder == folder]
        by_shots = _by_shots(own)
        for shots in sorted(by_shots, key=many):
            group, name = by_shots[shots], material.names[folder] if several else ""
            title, few = suite_name(group[0].job), examples(shots)
            made = _result_table([result for entry in group for result in entry.parts])
            stem = f"results {title} {few} {name}"
            title = f"{title}, {few}" + (f" ({name})" if name else "")
            exhibits.append(Exhibit(slug(stem), title, _ranking(group), CELLS, made))
    if not exhibits:
        return None
    return Section("Results", "Scores of every finished run; a row is a method and setting over its seeds.", exhibits)


def _joined(material: Material) -> list[Exhibit]:
    """The tables that several folders fill: runs on as many shots, of one trunk, scored in one way."""
    alike: dict[tuple[Any, ...], list[Entry]] = {}
    for entry in material.entries:
        alike.setdefault((entry.config.shots, *(entry.settings[name] for name in SAME)), []).append(entry)
    exhibits = []
    for (shots, *_), entries in sorted(alike.items(), key=lambda item: many(item[0][0])):
        jobs: dict[str, list[RunResult]] = {}
        for entry in entries:
            jobs.setdefault(material.names[entry.folder], []).extend(entry.parts)
        for table in together(jobs):
            group = [entry for entry in entries if material.names[entry.folder] in table]
            tasks = {task for entry in group for task in entry.tasks}
            suites = dict.fromkeys(suite_name(entry.job) for entry in group)
            title = next(iter(suites)) if len(suites) == 1 else plural(len(tasks), "task")
            made = _result_table([result for results in table.values() for result in results])
            says, few = f"The {plural(len(made.rows), 'row')} of {listed(list(table))}", examples(shots)
            whole = all(len(entry.tasks) == len(tasks) for entry in group)
            says += f". {_ranking(group)}" if whole else f"; an average needs all {len(tasks)} tasks."
            stem, title = f"results {title} {few} together", f"{title}, {few} (together)"
            exhibits.append(Exhibit(slug(stem), title, says, CELLS, made))
    return exhibits


def _by_shots(entries: Sequence[Entry]) -> dict[int | None, list[Entry]]:
    found: dict[int | None, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.config.shots, []).append(entry)
    return found


def _result_table(results: list[RunResult]) -> Table:
    scores = score_table(results)
    heads, rows = scores.heads(), scores.rows
    best = set()
    for c in range(2, len(heads)) if len(rows) > 1 else []:
        numbers = [_number(row[c]) for row in rows]
        best |= {(r, c) for r, number in enumerate(numbers) if number == max(numbers)}
    return Table([head.replace("mini_", "") for head in heads], rows, best=frozenset(best))


def _number(cell: str) -> float:
    """The mean in a cell of a result table; below all others where there is none."""
    try:
        return float(cell.split()[0])
    except ValueError:
        return -math.inf


def _by_setting(entries: Sequence[Entry]) -> tuple[dict[str, list[Entry]], dict[str, Point], list[str]]:
    """Entries and averages by the label of their setting, and the labels from the best average on."""
    keyed = grouped(entries)
    groups = dict(zip(labels(list(keyed)), keyed.values(), strict=True))
    averages = {name: Point.of(None, group) for name, group in groups.items()}
    return groups, averages, sorted(averages, key=lambda name: -averages[name].rank)


def _ranking(entries: Sequence[Entry]) -> str:
    """Who leads, by how much, whether the seeds allow to say so, and on how many tasks."""
    groups, averages, ranked = _by_setting(entries)
    lead, first = ranked[0], averages[ranked[0]]
    runs = plural(len(first.scores), "seed")
    if len(ranked) == 1:
        return f"{lead} reaches {first.says} on average over {runs}."
    second, last = averages[ranked[1]], averages[ranked[-1]]
    if first.rank == last.rank:
        return f"By {first.by} scores all {len(ranked)} settings are level, with {first.says} on average over {runs}."
    gap, spread = first.rank - second.rank, max(first.sd, second.sd)
    noise = f", less than the seeds' spread (±{spread:.1f})" if gap < spread else ""
    end = f" {ranked[-1]} is last with {last.says}." if len(ranked) > 2 else ""
    wins = 0
    for task in entries[0].tasks:
        means = {name: statistics.fmean(entry.score(task) for entry in group) for name, group in groups.items()}
        wins += means[lead] == max(means.values())
    return (
        f"By {first.by} scores {lead} leads with {first.says} on average over {runs}, {gap:.1f} points above "
        f"{ranked[1]}{noise}; in the test it is best on {wins} of {plural(len(entries[0].tasks), 'task')}.{end}"
    )


def methods(material: Material) -> Section | None:
    """Settings by their averages (CrossPT, figure 2); of up to three tasks each by itself (figure 3)."""
    exhibits = []
    for suite, entries in panels(material).items():
        for shots, group in _by_shots(entries).items():
            if len(grouped(group)) > 1:
                exhibits.append(_compared(suite, shots, group))
    if not exhibits:
        return None
    return Section(
        "Methods compared", "Averages of the settings in order; bars are standard deviations over seeds.", exhibits
    )


def _compared(suite: str, shots: int | None, entries: list[Entry]) -> Exhibit:
    groups, averages, whole = _by_setting(entries)
    ranked = whole[:MOST_ROWS]
    left_out = len(averages) - len(ranked)
    names = entries[0].tasks if len(entries[0].tasks) in (2, 3) else ()
    levels: dict[str, list[Point | None]] = {"average": [averages[name] for name in ranked]}
    for task, head in zip(names, short(names), strict=True):
        levels[f"{head} ({entries[0].metric(task)})"] = [
            Point(None, tuple(entry.score(task) for entry in groups[name])) for name in ranked
        ]
    rows: list[list[Cell]] = [[name, *_numbers(averages[name])] for name in averages]
    few = examples(shots)
    says = _ranking(entries) + (f" The {left_out} lowest stand in the table alone." if left_out else "")
    return Exhibit(
        slug(f"methods {suite} {few}"),
        f"{suite}, {few}",
        says,
        metric(entries),
        Table(["run", "mean", "sd", "seeds"], rows),
        draw.dots(ranked, levels, xlabel=AVERAGE if not names else "score, %"),
    )


def _numbers(point: Point) -> list[Cell]:
    return [point.mean, point.sd if len(point.scores) > 1 else None, len(point.scores)]


def shots(material: Material) -> Section | None:
    """Averages by shots (ComPT, tables 1 and 2; CrossPT, figure 4)."""
    exhibits = []
    for suite, entries in panels(material).items():
        lines = series(entries, "shots")
        exhibits += line_exhibits(lines, f"shots {suite}", suite, entries, "shots a task", _shots_say)
    return Section("Shots", "How the averages grow with the examples a task.", exhibits) if exhibits else None


def _shots_say(lines: Sequence[Series]) -> str:
    first, last = lines[0].points[0].x, lines[0].points[-1].x
    lines = [line for line in lines if (line.points[0].x, line.points[-1].x) == (first, last)]
    low = max(lines, key=lambda line: line.points[0].rank)
    high = max(lines, key=lambda line: line.points[-1].rank)
    gains = {line.label: line.points[-1].mean - line.points[0].mean for line in lines}
    most = max(gains, key=lambda name: gains[name])
    until = examples(last)
    if len(lines) == 1:
        return f"From {examples(first)} to {until} {most} moves by {gains[most]:+.1f} points." + _spread(lines)
    ahead = f"By {low.points[0].by} scores {low.label} is ahead at {examples(first)} ({low.points[0].says})"
    ahead += " and" if low is high else f", {high.label}"
    return f"{ahead} at {until} ({high.points[-1].says}); {most} moves most, by {gains[most]:+.1f} points." + _spread(
        lines
    )


def _spread(lines: Sequence[Series]) -> str:
    """A word of caution where seeds differ."""
    widest = max(point.sd for line in lines for point in line.points)
    return f" Seeds differ by up to ±{widest:.1f}, so smaller gaps say little." if widest else " One seed says little."


def sources(material: Material) -> Section | None:
    """Averages by the number of sources, beside methods that have none (ComPT, figure 2; CrossPT, figure 10)."""
    exhibits = []
    for suite, entries in panels(material).items():
        groups = grouped(entries, "sources")
        found = {key: points(group, "sources") for key, group in groups.items()}
        chosen = {key for key, of in found.items() if len(of) > 1}
        rates = {(dict(key)["shots"], dict(key)["label_mode"]) for key in chosen}
        base = {
            key
            for key in found
            if composed(dict(key)["composition"]).sources in ("none", "one")
            and (dict(key)["shots"], dict(key)["label_mode"]) in rates
        }
        keys = [key for key in found if key in chosen | base]
        named = dict(zip(keys, labels(keys), strict=True))
        lines = [Series(named[key], found[key]) for key in keys if key in chosen]
        level = [Series(named[key], found[key]) for key in keys if key in base]
        exhibits += line_exhibits(
            lines, f"sources {suite}", suite, entries, "number of source prompts N", _sources_say, level
        )
    if not exhibits:
        return None
    return Section("Number of source prompts", "How the averages change with N; dashed: methods without it.", exhibits)


def _sources_say(lines: Sequence[Series]) -> str:
    best = [f"{line.label} with N={line.best.x} ({line.best.says})" for line in lines[:4]]
    ranges = [line.best.rank - min(point.rank for point in line.points) for line in lines]
    return (
        f"Best by {lines[0].best.by} scores is {listed(best)}; N makes up to {max(ranges):.1f} points of difference."
        + _spread(lines)
    )


def _written(x: Any) -> Cell:
    """A setting's value in a table, where numbers are rounded like scores: rates are not."""
    return "all" if x is None else str(x) if isinstance(x, float) else x


def line_exhibits(
    lines: list[Series],
    stem: str,
    title: str,
    entries: Sequence[Entry],
    xlabel: str,
    says: Callable[[Sequence[Series]], str],
    level: Sequence[Series] = (),
) -> list[Exhibit]:
    """Curves of the lines in one picture, or in several where one would hold too many."""
    room = draw.MOST_LINES
    parts = [lines[k : k + room] for k in range(0, len(lines), room)]
    exhibits = []
    for k, part in enumerate(parts):
        rows: list[list[Cell]] = [
            [line.label, _written(point.x), *_numbers(point)] for line in part for point in line.points
        ]
        rows += [[line.label, None, *_numbers(line.points[0])] for line in level]
        exhibits.append(
            Exhibit(
                slug(stem) + (f"-{k + 1}" if len(parts) > 1 else ""),
                title + (f", part {k + 1}" if len(parts) > 1 else ""),
                says(part),
                metric(entries),
                Table(["run", xlabel, "mean", "sd", "seeds"], rows),
                draw.curves(part, xlabel=xlabel, ylabel=AVERAGE, level=level),
            )
        )
    return exhibits
