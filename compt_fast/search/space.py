"""What a search chooses from: a table of axes by the names of the flags of runs, some of them under a condition.

    method = ["spp", "scp"]
    lr_source = {low = 0.01, high = 1.0, log = true}

    [when.method.spp]
    sources = [2, 4]

An axis is a list of values or a range. A table `when.FLAG.VALUE` holds what is chosen only where FLAG has that value,
which may be several, as `"spp,scp"`, and may hold conditions of its own. A flag that the chosen method has no use for
is left out of the trial without a word.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from compt_fast.config.baselines import METHODS
from compt_fast.config.fields import DECIMAL, SHOTS, WHOLE
from compt_fast.config.flags import value_of
from compt_fast.config.job import JOB_FLAGS, MOST_RUNS
from compt_fast.config.presets import Preset
from compt_fast.config.run import RUN_FLAGS, RunFlag
from compt_fast.utils.errors import InputError, shown, unknown
from compt_fast.utils.inputs import read_document

Table = Mapping[str, Any]
Point = dict[str, Any]
"""A value for each axis of a trial, by the names of the axes."""


class Suggests(Protocol):
    """What an axis asks for a value: a trial of Optuna."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...


@dataclass(frozen=True)
class Choices:
    """One of some values."""

    values: tuple[Any, ...]

    def suggest(self, trial: Suggests, name: str) -> Any:
        """The value that `trial` chooses."""
        return trial.suggest_categorical(name, self.values)

    @property
    def grid(self) -> Sequence[Any] | None:
        """All values."""
        return self.values

    @property
    def ends(self) -> Sequence[Any]:
        """The values that stand for all in a check."""
        return self.values


@dataclass(frozen=True)
class Span:
    """A number from `low` to `high`, both included, in steps of `step` (None: any; of whole numbers 1) or, with `log`,
    with a uniform logarithm.
    """

    low: float
    high: float
    step: float | None
    log: bool
    whole: bool

    def suggest(self, trial: Suggests, name: str) -> float:
        """The value that `trial` chooses."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    @property
    def grid(self) -> Sequence[float] | None:
        """All values, None where they are uncountable."""
        step = self.step or (1 if self.whole else None)
        if step is None:
            return None
        # Half a millionth of a step: 0.1 + 0.2 is to reach 0.3.
        return [self.low + i * step for i in range(int((self.high - self.low) / step + 5e-7) + 1)]

    @property
    def ends(self) -> Sequence[float]:
        """The values that stand for all in a check."""
        return self.low, self.high


@dataclass(frozen=True)
class Axis:
    """A flag that is searched, by its `key`; `name` also says under which conditions. `then` are the axes that follow
    one of its values.
    """

    key: str
    name: str
    over: Choices | Span
    then: Mapping[Any, tuple[Axis, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Space:
    """The axes, and what stands `fixed` beside them: values of flags of runs by key, one each but for seeds.

    `content` is the table that it was read from.
    """

    axes: tuple[Axis, ...]
    fixed: Mapping[str, Any]
    content: Table

    def walk(self, pick: Callable[[Axis], Any]) -> Point:
        """The point whose values `pick` gives, axis by axis, a condition's axes directly behind it."""
        point: Point = {}
        values: dict[str, Any] = {}
        pending = list(self.axes)
        while pending:
            axis = pending.pop(0)
            if self._used(axis, values):
                values[axis.key] = point[axis.name] = pick(axis)
                pending[:0] = axis.then.get(values[axis.key], ())
        return point

    def values(self, point: Point) -> dict[str, Any]:
        """The value of each flag of a trial, by key: the point's, and what is fixed and its method has a use for."""
        chosen: dict[str, Any] = {}

        def note(axis: Axis) -> Any:
            chosen[axis.key] = point[axis.name]
            return point[axis.name]

        self.walk(note)
        preset = self._preset(chosen)
        return {key: value for key, value in self.fixed.items() if RUN_FLAGS[key].used(preset)} | chosen

    def points(self, values: Callable[[Choices | Span], Sequence[Any]]) -> Iterator[Point]:
        """Every combination of the `values` of the axes; the last axis varies fastest."""
        yield from self._points(self.axes, {}, {}, values)

    def _points(
        self, pending: tuple[Axis, ...], point: Point, chosen: Point, values: Callable[[Choices | Span], Sequence[Any]]
    ) -> Iterator[Point]:
        if not pending:
            yield point
            return
        axis, rest = pending[0], pending[1:]
        if not self._used(axis, chosen):
            yield from self._points(rest, point, chosen, values)
            return
        for value in values(axis.over):
            then = axis.then.get(value, ())
            yield from self._points(then + rest, point | {axis.name: value}, chosen | {axis.key: value}, values)

    def grid(self, seed: int) -> list[Point]:
        """Every point, in an order that `seed` draws: the first ones are to be no corner of the space.

        Raises `InputError` for an axis with uncountable values, and for more points than a job has runs.
        """

        def countable(over: Choices | Span) -> Sequence[Any]:
            if over.grid is None:
                raise InputError(
                    f"--sampler grid: the range from {over.ends[0]} to {over.ends[1]} has no step: give it one, or "
                    "list its values"
                )
            return over.grid

        found = list(itertools.islice(self.points(countable), MOST_RUNS + 1))
        if len(found) > MOST_RUNS:
            raise InputError(f"--sampler grid: the space has more than {MOST_RUNS:,} points; take random or tpe")
        random.Random(seed).shuffle(found)
        return found

    def sample(self, most: int) -> list[Point]:
        """Points that stand for all in a check: every combination of choices and ends of ranges, or `most` that are
        drawn, where there are more.
        """
        found = list(itertools.islice(self.points(lambda over: over.ends), most + 1))
        if len(found) <= most:
            return found
        drawn = random.Random(0)
        return [self.walk(lambda axis: drawn.choice(axis.over.ends)) for _ in range(most)]

    def every_axis(self) -> list[Axis]:
        """All axes, those of conditions behind what they follow."""
        found: dict[str, Axis] = {}
        pending = list(self.axes)
        while pending:
            axis = pending.pop(0)
            found.setdefault(axis.name, axis)
            pending[:0] = [then for axes in axis.then.values() for then in axes]
        return list(found.values())

    def _used(self, axis: Axis, chosen: Point) -> bool:
        """Whether the method of a trial, which is chosen first, has a use for an axis."""
        return axis.key == "method" or RUN_FLAGS[axis.key].used(self._preset(chosen))

    def _preset(self, chosen: Point) -> Preset:
        name: str = chosen["method"] if "method" in chosen else self.fixed["method"]
        return METHODS[name]


def read_space(path: Path, fixed: Table) -> Space:
    """The space of a TOML, YAML or JSON file, beside the flags that are `fixed`.

    Raises `InputError` for a file that is missing or malformed, and as `space_of` does.
    """
    content = read_document(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: a space is a table of flags, not {shown(content)}")
    return space_of(content, str(path), fixed)


def space_of(content: Table, where: str, fixed: Table) -> Space:
    """The space that a table means, of which messages say that it stands in `where`.

    A flag that is `fixed` is searched no more. Raises `InputError` for what is no flag of runs or no value of its
    flag, for a condition on what is not chosen, and where no method is named.
    """
    axes = _axes(content, where, fixed, "")
    axes = tuple(sorted(axes, key=lambda axis: axis.key != "method"))  # it decides which others there are
    if all(axis.key != "method" for axis in axes) and "method" not in fixed:
        raise InputError(f"{where}: no method: list some (method = ['spp', 'scp']), or name one with --method")
    if not axes:
        raise InputError(
            f"{where}: nothing to choose; list values (lr_source = [0.1, 0.3]) of a flag that is not fixed"
        )
    space = Space(axes, dict(fixed), json.loads(json.dumps(content)))  # as it is read from JSON, all keys texts
    keys = {axis.key for axis in space.every_axis()} | fixed.keys()
    for key in keys:
        if (other := RUN_FLAGS[key].excludes) in keys:
            raise InputError(f"{where}: {key} and {other} exclude each other: choose one of them")
    return space


def _axes(table: Table, where: str, fixed: Table, under: str) -> tuple[Axis, ...]:
    """The axes of a table that stands `under` conditions, as they are written behind a name."""
    found: dict[str, Axis] = {}
    for name, value in table.items():
        if name == "when":
            continue
        key = _key(str(name), where)
        if key in found:
            raise InputError(f"{where}: {key} stands there twice")
        if under and key == "method":
            raise InputError(f"{where}: method stands under a condition; it is chosen first, so list it at the top")
        axis = Axis(key, f"{key}[{under}]" if under else key, _over(RUN_FLAGS[key], value, f"{where}: {name}"))
        if key not in fixed:
            found[key] = axis
    whens = table.get("when", {})
    _check_table(whens, f"{where}: when")
    for name, branches in whens.items():
        key = _key(str(name), f"{where}: when")
        _check_table(branches, f"{where}: when.{name}")
        then = _branches(key, branches, found.get(key), f"{where}: when.{name}", fixed, under)
        if key in found:
            found[key] = replace(found[key], then=then)
        else:  # fixed, so that what its value brings is chosen always
            found |= {axis.key: axis for axis in then.get(fixed[key], ())}
    _check_once(tuple(found.values()), where)
    return tuple(found.values())


def _branches(
    key: str, branches: Table, axis: Axis | None, where: str, fixed: Table, under: str
) -> dict[Any, tuple[Axis, ...]]:
    """By value of a flag, which `axis` chooses or else is `fixed`, the axes that its table `when.FLAG` has for it."""
    if axis is None and key not in fixed:
        raise InputError(f"{where}: {key} is not chosen in the table beside it: list its values there")
    over = None if axis is None else axis.over
    if isinstance(over, Span):
        raise InputError(f"{where}: a condition is on one of listed values, and {key} has a range")
    known = [str(value) for value in (over.values if over else METHODS if key == "method" else [fixed[key]])]
    then: dict[Any, tuple[Axis, ...]] = {}
    for name, table in branches.items():
        _check_table(table, f"{where}.{name}")
        values = [value_of(RUN_FLAGS[key], text, f"{where}.{name}") for text in str(name).split(",")]
        for value in values:
            if over is not None and value not in over.values:
                raise unknown(f"value in {where}:", str(value), known)
            if value in then or values.count(value) > 1:
                raise InputError(f"{where}: {value} has two tables; write it into one")
        condition = f"{key}={'|'.join(map(str, values))}"
        own = _axes(table, f"{where}.{name}", fixed, ",".join(filter(None, [under, condition])))
        then |= dict.fromkeys(values, own)
    return then


def _key(name: str, where: str) -> str:
    """The key of a flag that may be searched."""
    key = name.replace("-", "_")
    if key == "seeds":
        raise InputError(f"{where}: a search chooses no seed; name those of each trial with --seeds")
    if key in JOB_FLAGS:
        raise InputError(f"{where}: {name} is one for the whole job; give it as --{JOB_FLAGS[key].name}")
    if key not in RUN_FLAGS:
        raise unknown(f"flag in {where}:", name, [*(of for of in RUN_FLAGS if of != "seeds"), "when"])
    return key


def _over(flag: RunFlag, value: Any, where: str) -> Choices | Span:
    """The axis over a list of values, a range, or one value."""
    if isinstance(value, dict):
        return _span(flag, value, where)
    items = value if isinstance(value, list) else [value]
    values = tuple(_checked(flag, item, where) for item in items)
    if not values:
        raise InputError(f"{where} is empty: give at least one value")
    if len(set(values)) < len(values):
        raise InputError(f"{where} names a value twice")
    return Choices(values)


def _span(flag: RunFlag, table: Table, where: str) -> Span:
    known = ("low", "high", "step", "log")
    for name in table:
        if name not in known:
            raise unknown(f"key in {where}:", str(name), known)
    if flag.kind not in (WHOLE, DECIMAL, SHOTS):
        raise InputError(f"{where}: a range is of numbers; list values ({', '.join(flag.choices)})")
    if "low" not in table or "high" not in table:
        raise InputError(f"{where}: a range needs low and high, as {{low = 0.01, high = 1.0, log = true}}")
    low, high = (_checked(flag, table[name], f"{where}: {name}") for name in ("low", "high"))
    if isinstance(low, str) or isinstance(high, str):
        raise InputError(f"{where}: a range is of numbers; list values")
    log, whole = table.get("log", False), flag.kind is not DECIMAL
    if not isinstance(log, bool):
        raise InputError(f"{where}: log is true or false, not {shown(log)}")
    if not low < high:
        raise InputError(f"{where}: low is below high, not {low} and {high}")
    if log and (low <= 0 or "step" in table):
        raise InputError(f"{where}: with log, low is above 0 and there is no step")
    step = value_of(replace(flag, choices=()), table["step"], f"{where}: step") if "step" in table else None
    if step is not None and not 0 < step <= high - low:
        raise InputError(f"{where}: step is above 0 and at most high - low, not {step}")
    return Span(low, high, step, log, whole)


def _checked(flag: RunFlag, value: Any, where: str) -> Any:
    """A value of a flag, within its bounds."""
    read = value_of(flag, value, where)
    try:
        flag.check(read)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return read


def _check_table(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise InputError(f"{where} is a table, as [when.method.spp] begins one, not {shown(value)}")


def _check_once(axes: Sequence[Axis], where: str) -> None:
    """Raise `InputError` where two axes of a flag may be chosen in one trial."""
    seen: dict[str, None] = {}
    for axis in axes:
        below = {then.key for of in axis.then.values() for then in Space(of, {}, {}).every_axis()}
        for key in (axis.key, *sorted(below)):
            if key in seen:
                raise InputError(f"{where}: {key} is chosen twice in one trial: leave it at one place")
        seen |= dict.fromkeys((axis.key, *below))
