"""From the settings of a job to its search: what is fixed, the space beside it, and the runs of a point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from compt_fast.config.job import JobSettings, Sweep
from compt_fast.config.run import RUN_FLAGS
from compt_fast.search.space import Space, read_space, space_of
from compt_fast.training.plan import Run
from compt_fast.utils.errors import InputError
from compt_fast.utils.output import complain

SAMPLE = 500
"""Points of a space that are looked at before a search starts: planning them takes a moment."""


def fixed_of(settings: JobSettings) -> dict[str, Any]:
    """What the flags of a job give to every trial, by key: one value each, of seeds all.

    What a flag has without being named is not fixed. Raises `InputError` for a flag of several values.
    """
    fixed: dict[str, Any] = {"seeds": settings.sweep.values["seed"]}
    for key, flag in RUN_FLAGS.items():
        values = settings.sweep.values.get(flag.field)
        if values in (None, flag.default) or key == "seeds":
            continue
        if len(values) > 1:
            named = ",".join(map(str, values))
            raise InputError(f"--{flag.name} {named}: beside --search a flag has one value; list them in the space")
        fixed[key] = values[0]
    return fixed


def space_named(settings: JobSettings, recorded: Mapping[str, Any] | None) -> Space:
    """The space of a search: as its run folder has `recorded` it or else as its file says.

    A line on standard error says so where the file has changed since. Raises `InputError` as `read_space` does.
    """
    assert settings.search is not None
    path, fixed = Path(settings.search), fixed_of(settings)
    if recorded is None:
        return read_space(path, fixed)
    space = space_of(recorded, "config.json: space", fixed)
    if path.is_file() and read_space(path, fixed).content != recorded:
        complain(f"note: {path} has changed since the search began, which goes on in the space that it began with")
    return space


def sweep_of(values: Mapping[str, Any]) -> Sweep:
    """The sweep of one point: its values by key, and what its flags have without being named."""
    return Sweep.of(
        **{RUN_FLAGS[key].field: value if isinstance(value, list) else [value] for key, value in values.items()}
    )


def of_trial(runs: list[Run], number: int) -> list[Run]:
    """Runs with the trial's number in their ids, before the task of those that are trained apart."""
    return [replace(run, id=_numbered(run, number)) for run in runs]


def _numbered(run: Run, number: int) -> str:
    task = "" if run.config.task is None else f"-{run.config.task}"
    return f"{run.id.removesuffix(task)}-t{number}{task}"
