"""A job that is a search: its space looked at before anything starts, and its control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compt_fast.config.choices import HALVINGS
from compt_fast.config.job import JobSettings, Sweep
from compt_fast.config.run import RUN_FLAGS, RunConfig
from compt_fast.config.use import without_use
from compt_fast.runs.adding import Adding
from compt_fast.runs.job import Job, check_runs
from compt_fast.search.planning import SAMPLE, of_trial, space_named, sweep_of
from compt_fast.search.record import Record
from compt_fast.search.space import Point, Space
from compt_fast.search.trials import shown
from compt_fast.training.halving import Halving, check_halving
from compt_fast.training.plan import Run, each_run
from compt_fast.utils.errors import InputError
from compt_fast.utils.files import write_json
from compt_fast.utils.inputs import check_type, read_object

if TYPE_CHECKING:
    from compt_fast.search.control import Search
    from compt_fast.training.loop import Trainer


def open_space(folder: Path, settings: JobSettings) -> Space | None:
    """The space of a job in `folder`, None where it is no search; `InputError` for whatever is wrong with it."""
    if settings.search is None:
        return None
    if find_spec("optuna") is None:
        raise InputError("--search needs the package optuna: pip install optuna")
    return space_named(settings, recorded_space(folder))


def recorded_space(folder: Path) -> dict[str, Any] | None:
    """The space of the search that a folder's job is, as it began; None before it has."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    space = read_object(path, "the config.json of a run folder").get("space")
    check_type(space, dict | None, f"{path}: space")
    return space


def record_search(folder: Path, space: Mapping[str, Any], settings: JobSettings) -> None:
    """Note in `config.json` the space of a search, and how many trials and fresh seeds are wanted now."""
    path = folder / "config.json"
    content = read_object(path, "the config.json of a run folder")
    check_type(content.get("flags"), dict, f"{path}: flags")
    flags = content["flags"] | {"trials": settings.trials, "confirm": settings.confirm}
    if content == content | {"space": space, "flags": flags}:
        return
    try:
        write_json(path, content | {"space": space, "flags": flags})
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def look_ahead(job: Job, space: Space) -> list[Run]:
    """Runs that stand for those that a search may add, checked as those are.

    Raises `InputError` that names the point of the space whose runs cannot be trained, and for flags of the job that
    no trial has a use for.
    """
    assert job.settings.search is not None
    found: dict[RunConfig, Run] = {}
    halves = job.settings.halve in HALVINGS
    for number, point in enumerate(space.sample(SAMPLE)):
        try:
            runs = of_trial(_planned(job, space.values(point)), number)
            check_runs(runs, job.settings, job.trunk, job.data)
        except InputError as error:
            raise InputError(f"{job.settings.search}: {_says(point)}: {error}") from None
        if halves and len(runs) > 1:
            raise InputError(
                f"--halve compares run by run, and a trial is {len(runs)} of them {_says(point)}: name one of --seeds, "
                "and no method that trains each task apart (or --no-apart)"
            )
        found |= {run.config: run for run in runs if run.config not in found}
    for why in without_use(_all_values(job.settings, space), list(found)).values():
        methods = dict.fromkeys(config.method for config in found)
        raise InputError(why.format(", ".join(methods)))
    return list(found.values())


def check_trials(trainer: Trainer, runs: Sequence[Run]) -> None:
    """Raise `InputError` where there are too few rows to train some `runs` of trials on, or to compare them by, and
    where halving means nothing for them.
    """
    rows: dict[tuple[Any, ...], int] = {}
    steps = {}
    for run in runs:
        config = run.config
        draw = config.shots, config.seed, config.sampling, config.max_train, config.label_mode, config.task
        if draw not in rows:
            rows[draw] = len(trainer.data.training(config))
            trainer.check_development(run)
        steps[run.id] = run.steps(rows[draw])
    check_halving(trainer.settings, runs, steps)


def search_of(adding: Adding, space: Space, halving: Halving) -> Search:
    """The control of a job's search, which has tried nothing yet."""
    from compt_fast.search.control import Search  # an optional package

    job, settings = adding.job, adding.job.settings

    def planned(values: Mapping[str, Any], number: int) -> list[Run]:
        return adding.checked(of_trial(_planned(job, values), number))

    record = Record(space, settings.sampler, settings.search_seed)
    return Search(record, settings.trials, settings.confirm, planned, halving)


def _planned(job: Job, values: Mapping[str, Any]) -> list[Run]:
    """The runs of one point's values."""
    settings = replace(job.settings, sweep=sweep_of(values))
    return each_run(settings, tasks=[data.task.name for data in job.data.tasks], d_model=job.trunk.d_model)


def _says(point: Point) -> str:
    return "with " + ", ".join(f"{name} {shown(value)}" for name, value in point.items())


def _all_values(settings: JobSettings, space: Space) -> JobSettings:
    """The settings of a job that has every value of a space at once."""
    values: dict[str, list[Any]] = {
        RUN_FLAGS[key].field: value if isinstance(value, list) else [value] for key, value in space.fixed.items()
    }
    for axis in space.every_axis():
        values.setdefault(RUN_FLAGS[axis.key].field, []).extend(axis.over.ends)
    return replace(settings, sweep=Sweep.of(**values))
