"""The flags of `compt_fast.train`: the command line, `--config` files and `config.json` are read by the fields of
`RunConfig` and `JobSettings`, and checked.
"""

from __future__ import annotations

import argparse
import math
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compt_fast.config.fields import Flag
from compt_fast.config.job import JOB_FLAGS, MOST_RUNS, JobFlag, JobSettings
from compt_fast.config.run import RUN_FLAGS
from compt_fast.utils.errors import InputError, shown, unknown
from compt_fast.utils.inputs import check_path, read_document

FLAGS: dict[str, Flag] = {**RUN_FLAGS, **JOB_FLAGS}
FORMER = {"tensorboard": lambda on: {"track": ["tensorboard"]} if on else {}}
"""Flags that are no more, and what says the same: files of older jobs hold them."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add every flag to `parser`, values kept as the user's text (or None)."""
    groups: dict[str, Mapping[str, Flag]] = {"runs (comma lists multiply into a fleet)": RUN_FLAGS, "job": JOB_FLAGS}
    for title, flags in groups.items():
        group = parser.add_argument_group(title)
        for flag in flags.values():
            add_flag(group, flag, _help(flag))


def add_flag(parser: argparse._ActionsContainer, flag: Flag, help: str) -> None:
    """Add one flag, its value kept as the user's text (of a switch as true or false), or None."""
    name = f"--{flag.name}"
    if flag.switch:
        parser.add_argument(name, action=argparse.BooleanOptionalAction, default=None, help=help)
    else:
        bare: dict[str, Any] = {"nargs": "?", "const": flag.bare} if flag.bare else {}
        parser.add_argument(name, default=None, metavar=_metavar(flag), help=help, **bare)


def flags_also_of(command: str) -> list[JobFlag]:
    """The flags of a job that another command has too."""
    return [flag for flag in JOB_FLAGS.values() if command in flag.also]


def _metavar(flag: Flag) -> str:
    word = flag.kind.word or flag.name.split("-")[-1].upper()
    return f"{word}[,{word}]" if flag.many or flag.listed else word


def meaning(flag: Flag) -> str:
    """What a flag is for, and its choices, for a help text."""
    text = flag.help
    if flag.choices:
        text += ": " + ", ".join(flag.choices)
    return text.replace("%", "%%")


def _help(flag: Flag) -> str:
    default = ",".join(map(str, flag.default)) if isinstance(flag.default, list) else flag.default
    if default is None and flag.many:
        default = "the preset's"
    shown = default not in (None, "", True, False) and "(default:" not in flag.help
    return meaning(flag) + (f" (default: {default})" if shown else "")


def read_flags(given: Mapping[str, Any], config: str | None) -> JobSettings:
    """The settings of a job: from the command line over those of the file `config` over the defaults, each checked.

    Raises `InputError` that names the flag (or the file and the key) and what it takes.
    """
    return merge_flags(given, read_config(Path(config)) if config is not None else {}, str(config))


def merge_flags(given: Mapping[str, Any], settings: Mapping[str, Any], where: str) -> JobSettings:
    """The settings of a job: from the command line over the `settings` that stand in `where` over the defaults, each
    checked; None leaves one as it is.

    Raises `InputError` that names the flag (or `where` and the key) and what it takes.
    """
    values = {key: flag.default for key, flag in FLAGS.items()}
    for key, value in settings.items():
        if value is not None:
            values[key] = parse(key, value, f"{where}: {key}")
    for key, value in given.items():
        if value is not None:
            values[key] = parse(key, value, f"--{FLAGS[key].name}")
    for key, flag in FLAGS.items():
        for value in values[key] if isinstance(values[key], list) else [values[key]]:
            flag.check(value)
    _check_together(values)
    return JobSettings.of(values)


def _check_together(values: Mapping[str, Any]) -> None:
    """Raise `InputError` for flags that exclude each other, and for more runs than a job has."""
    for key, flag in RUN_FLAGS.items():
        if flag.excludes and values[key] is not None and values[flag.excludes] is not None:
            raise InputError(f"--{flag.name} and --{FLAGS[flag.excludes].name} exclude each other: name one")
    counts = {flag.name: len(values[key] or [None]) for key, flag in RUN_FLAGS.items()}
    if math.prod(counts.values()) > MOST_RUNS:
        several = " * ".join(f"{n:,} --{name}" for name, n in counts.items() if n > 1)
        raise InputError(f"{several} make {math.prod(counts.values()):,} runs; a job has up to {MOST_RUNS:,}")


def excluded(given: Mapping[str, Any]) -> set[str]:
    """The keys of the flags that cannot stand beside those that are `given`."""
    found = set()
    for key, flag in RUN_FLAGS.items():
        for one, other in ((key, flag.excludes), (flag.excludes, key)) if flag.excludes else ():
            if given.get(one) is not None:
                found.add(other)
    return found


def parse(key: str, value: Any, where: str) -> Any:
    """One flag's value from the text of a command line or the value of a configuration file."""
    flag = FLAGS[key]
    if flag.switch:
        if not isinstance(value, bool):
            raise InputError(f"{where} must be true or false, not {shown(value)}")
        return value
    if not (flag.many or flag.listed):
        return value_of(flag, value, where)
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    parsed = [value_of(flag, item, where) for item in items]
    if not parsed and flag.many:
        raise InputError(f"{where} is empty: give at least one value")
    twice, count = Counter(parsed).most_common(1)[0] if parsed else (None, 0)
    if count > 1:
        raise InputError(f"{where} names {twice} twice")
    return parsed


def typed(flag: Flag, value: Any) -> str:
    """A value that `parse` made, as a user types it: 'with --tasks rte,cola', 'without --tasks'."""
    if flag.switch and value is not None:
        return f"with --{'' if value else 'no-'}{flag.name}"
    values = [str(item) for item in (value if isinstance(value, list) else [value]) if item is not None]
    return f"with --{flag.name} {shlex.quote(','.join(values))}" if values else f"without --{flag.name}"


def value_of(flag: Flag, value: Any, where: str) -> Any:
    """The one value that a flag, or an entry of its list, has from a text or a number; `InputError` for any other."""
    text = str(value).strip() if isinstance(value, str | int | float) else ""
    if isinstance(value, bool) or not text or not (flag.kind.path or text.isprintable()):
        raise InputError(f"{where}: {shown(value)} is no value for it")
    if flag.kind.path:
        check_path(text, where)
    if flag.choices and text not in flag.choices:
        raise unknown(f"value of {where}", text, flag.choices)
    try:
        return flag.kind.read(text)
    except ValueError:
        raise InputError(f"{where} takes {flag.kind.takes}, not {shown(text)}") from None


def read_config(path: Path) -> dict[str, Any]:
    """The flags that a TOML, YAML or JSON file sets; a run folder's `config.json` is such a file.

    Raises `InputError` for a missing or malformed file, and for keys that are no flags or stand
    there twice.
    """
    return check_settings(read_file(path), str(path))


def read_file(path: Path) -> dict[str, Any]:
    """What a TOML, YAML or JSON file of flags holds, unchecked; of a `config.json`, its flags.

    Raises `InputError` for a file that is missing, malformed or no table.
    """
    content = read_document(path)
    if isinstance(content, dict) and "flags" in content:
        content = content["flags"]
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected flags and their values, found {type(content).__name__}")
    return content


def check_settings(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The content of a file or table by the keys of flags.

    Raises `InputError` that begins with `where` for keys that are no flags or stand there twice.
    """
    settings: dict[str, Any] = {}
    for name, value in content.items():
        former = str(name).replace("-", "_")
        for key, meant in FORMER[former](value).items() if former in FORMER else [(former, value)]:
            if key not in FLAGS:
                raise unknown(f"flag in {where}:", str(name), FLAGS)
            if key in settings:
                raise InputError(f"{where}: {key} stands there twice")
            settings[key] = meant
    return settings
