"""What a search found: its best configuration, what mattered, the trials side by side, and how soon it was there."""

from __future__ import annotations

from compt_fast.analysis import draw, draw_search
from compt_fast.analysis.contrasts import Point
from compt_fast.analysis.exhibits import Cell, Exhibit, Section, Table
from compt_fast.analysis.runs import Material
from compt_fast.analysis.words import slug
from compt_fast.search.record import Interval, Record
from compt_fast.search.trials import FINISHED, PRUNED, best_of, shown
from compt_fast.utils.words import duration, plural

DEVELOPMENT = "average on the development sample (percent)"
MOST_DRAWN = 500  # trials in a picture


def search(material: Material) -> Section | None:
    """The searches of the run folders, one after another."""
    exhibits = []
    for folder in material.folders:
        record = Record.read(folder)
        if record is None or best_of(record.trials) is None:
            continue
        scores = {entry.id: entry.average for entry in material.entries if entry.folder == folder}
        name = material.names[folder]
        exhibits.append(_best(record, scores, name))
        exhibits += [made for made in (_importance(record, name), _trials(record, name), _regret(record, name)) if made]
    intro = "Trials are compared by their development scores; the test rows chose nothing."
    return Section("Search", intro, exhibits) if exhibits else None


def _best(record: Record, scores: dict[str, float], name: str) -> Exhibit:
    """The best trial and, of the runs with fresh seeds, the mean with its interval."""
    best = best_of(record.trials)
    assert best is not None and best.value is not None
    confirmed = [scores[run] for run in record.confirming if run in scores]
    says = f"Of {plural(len(record.trials), 'trial')} number {best.number} is best: {best.value:.1f} % in development"
    rows: list[list[Cell]] = [[axis, shown(value)] for axis, value in best.point.items()]
    rows += [[key, shown(value)] for key, value in record.space.fixed.items() if key != "seeds"]
    if confirmed:
        says += f", and {Interval.of(confirmed)} % in the test with {plural(len(confirmed), 'fresh seed')}"
        rows.append(["test, fresh seeds", str(Interval.of(confirmed))])
    metric = "95 % intervals by Student's t over fresh seeds, which the search has not seen"
    return Exhibit(slug(f"search best {name}"), f"{name}: the best trial", f"{says}.", metric, Table(["", ""], rows))


def _importance(record: Record, name: str) -> Exhibit | None:
    from compt_fast.search.importance import importances  # an optional package

    found = importances(record)
    if not found:
        return None
    first, share = next(iter(found.items()))
    return Exhibit(
        slug(f"search importance {name}"),
        f"{name}: what mattered",
        f"{first} explains most of the differences between finished trials ({100 * share:.0f} %).",
        "share of the variance of development scores (fANOVA); under a condition, among the trials that chose the axis",
        Table(["axis", "share (percent)"], [[axis, 100 * value] for axis, value in found.items()]),
        draw.dots(
            list(found),
            {"": [Point(None, (100 * value,)) for value in found.values()]},
            xlabel="share of the variance (percent)",
        ),
    )


def _trials(record: Record, name: str) -> Exhibit:
    """Every trial, the best first, and the finished ones as lines through their values."""
    axes = [axis for axis in record.space.every_axis() if any(axis.name in trial.point for trial in record.trials)]
    ranked = sorted(record.trials, key=lambda trial: (trial.value is None, -(trial.value or 0), trial.number))
    rows: list[list[Cell]] = [
        [trial.number, trial.value, trial.state, *(trial.point.get(axis.name) for axis in axes)] for trial in ranked
    ]
    finished = [trial for trial in ranked if trial.state == FINISHED][:MOST_DRAWN]
    early = sum(trial.state == PRUNED for trial in record.trials)
    shares = f"Of {plural(len(record.trials), 'trial')} {len(finished)} were trained to the end"
    says = shares + (f", {early} were stopped early." if early else ".")
    lines = [(trial.value or 0.0, [trial.point.get(axis.name) for axis in axes]) for trial in reversed(finished)]
    picture = draw_search.parallel([axis.name for axis in axes], lines, label="in development (percent)")
    heads = ["trial", "development", "state", *(axis.name for axis in axes)]
    table = Table(heads, rows, decimals=4)
    return Exhibit(slug(f"search trials {name}"), f"{name}: the trials", says, DEVELOPMENT, table, picture)


def _regret(record: Record, name: str) -> Exhibit | None:
    """How far the best trial so far was from the best of all, against the job's seconds."""
    ended = [(trial.seconds, trial.value) for trial in record.trials if trial.value is not None]
    if any(seconds is None for seconds, _ in ended):
        return None
    final = max(value for _, value in ended)
    steps: list[tuple[float, float]] = []
    for seconds, value in sorted((seconds or 0.0, value) for seconds, value in ended):
        if not steps or final - value < steps[-1][1]:
            steps.append((seconds, final - value))
    last = max(seconds or 0.0 for seconds, _ in ended)
    near = next(seconds for seconds, regret in steps if regret <= 0.5)
    return Exhibit(
        slug(f"search regret {name}"),
        f"{name}: how soon",
        f"A trial within half a point of the best had ended after {duration(near)}, the last trial after "
        f"{duration(last)}.",
        "regret: development score of the best of all trials less that of the best so far",
        Table(["seconds", "regret (points)"], [[seconds, regret] for seconds, regret in steps]),
        draw_search.steps(steps, last, xlabel="seconds of the job", ylabel="regret (points)"),
    )
