"""How a setting stands once: as a field of a dataclass, whose metadata holds its `Flag`.

The settings of a run are the fields of `compt_fast.config.run.RunConfig`, those of a job the fields of
`compt_fast.config.job.JobSettings`. The command line, the reading of configuration files, `config.json`, the checks of
numbers and the help texts derive from them, so that a setting that is added is added there alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import KW_ONLY, MISSING, Field, dataclass, fields, replace
from types import NoneType, UnionType
from typing import Any, ClassVar, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from compt_fast.utils.errors import InputError
from compt_fast.utils.numbers import integer, number

FULL = "full"


def shot_count(text: str) -> int | str:
    """A number of examples a task, or `full`."""
    return FULL if text == FULL else integer(text)


def place(text: str) -> str:
    """A file or folder, absolute, so that a job can go on from another working directory."""
    return os.path.abspath(os.path.expanduser(text))


def trunk_name(text: str) -> str:
    """The absolute path of a folder that is there; 'mini' and names on the hub stay as they are."""
    path = place(text)
    return path if text != "mini" and os.path.isdir(path) else text


@dataclass(frozen=True)
class Kind:
    """How the value of a flag is written.

    `read` makes it of its text, and raises `ValueError` for a text that is none; `takes` says what is one. `word`
    stands for the value in a help text, by default the flag's last word. A `path` may hold any character that a
    file's name can.
    """

    read: Callable[[str], Any]
    takes: str = ""
    word: str = ""
    path: bool = False


WORD = Kind(str)
WHOLE = Kind(integer, "a whole number", "N")
DECIMAL = Kind(number, "a finite number", "X")
SHOTS = Kind(shot_count, "a whole number or 'full'", "K")
PLACE = Kind(place, word="PATH", path=True)
FOLDER = Kind(str, path=True)
TRUNK = Kind(trunk_name, path=True)
SWITCH = Kind(bool)  # --name and --no-name, and no text
_OF_TYPE = {str: WORD, int: WHOLE, float: DECIMAL, bool: SWITCH}


@dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most` that are greater than `above`.

    `says` is what a message says of another one, which takes the place of its {}.
    """

    says: str
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and value > self.above


POSITIVE = Range("must be above 0, not {}", above=0)
NOT_NEGATIVE = Range("must not be negative, not {}", least=0)


def up_to(most: int) -> Range:
    """The numbers from 0 to `most`, of a size whose upper end no other check knows."""
    return Range(f"is a number from 0 to {most:,}, not {{:,}}", least=0, most=most)


@dataclass(frozen=True)
class Flag:
    """What users see of a setting, and how its values are read and checked.

    The metadata of the field (made by `stated`) gives `help`, `choices`, `ranges` (of which the first that a number is
    outside of says so) and, where the field's type does not, the `kind` of its values; also the `name` of the flag
    without its dashes, where it is not the field's, and what it means where it is given `bare`, without a value. The
    rest is the field's own: its name, its `default`, and whether it holds a list. `many` flags take a comma list and
    multiply into runs; one that is `listed` stays one value (tasks, not runs).
    """

    help: str
    _: KW_ONLY
    choices: tuple[str, ...] = ()
    ranges: tuple[Range, ...] = ()
    kind: Kind = WORD
    name: str = ""
    default: Any = None
    bare: str = ""
    field: str = ""
    listed: bool = False
    many: ClassVar[bool] = False

    @property
    def key(self) -> str:
        """Its name in configuration files, in `config.json` and on a parsed command line."""
        return self.name.replace("-", "_")

    @property
    def switch(self) -> bool:
        """Whether it is true or false: --name / --no-name."""
        return self.kind is SWITCH

    def check(self, value: Any) -> None:
        """Raise `InputError` for a number that is outside of the ranges; what is no number passes."""
        for range_ in self.ranges if isinstance(value, int | float) else ():
            if value not in range_:
                raise InputError(f"--{self.name} {range_.says.format(value)}")


P = ParamSpec("P")
F = TypeVar("F", bound=Flag)


def stated(kind: Callable[P, F]) -> Callable[P, dict[str, F]]:
    """What makes the metadata of a field out of the arguments of a `Flag`."""
    return lambda *args, **rest: {"flag": kind(*args, **rest)}


def flags_of(settings: type, kind: type[F]) -> dict[str, F]:
    """The flags of a dataclass of settings by their keys, in the order of its fields; all are of the type `kind`."""
    hints = get_type_hints(settings)
    flags = (_complete(own, hints[own.name]) for own in fields(settings) if "flag" in own.metadata)
    return {flag.key: flag for flag in flags if isinstance(flag, kind)}


def _complete(own: Field[Any], hint: Any) -> Flag:
    """The flag of a field with all that its metadata leaves to the field."""
    flag: Flag = own.metadata["flag"]
    (hint,) = [part for part in (get_args(hint) if isinstance(hint, UnionType) else (hint,)) if part is not NoneType]
    listed = get_origin(hint) is list
    return replace(
        flag,
        name=flag.name or own.name.replace("_", "-"),
        field=own.name,
        kind=_OF_TYPE[get_args(hint)[0] if listed else hint] if flag.kind is WORD else flag.kind,
        listed=listed,
        default=flag.default if flag.many else _default(own),
    )


def _default(own: Field[Any]) -> Any:
    return own.default_factory() if own.default_factory is not MISSING else own.default
