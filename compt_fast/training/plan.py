"""From settings to runs: the product of all comma lists, each with its configuration and its id."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from compt_fast.config.baselines import METHODS
from compt_fast.config.job import JobSettings
from compt_fast.config.presets import CHAIN
from compt_fast.config.resolve import resolve
from compt_fast.config.run import RUN_FLAGS, RunConfig, RunFlag
from compt_fast.config.use import without_use
from compt_fast.prompts.parameters import parameter_count
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError


@dataclass(frozen=True)
class Run:
    """One training of the fleet: its id (a folder's name), configuration and prompts' shape.

    `trains` are the numbers that a baseline trains in the trunk, or beside it, once that is known.
    """

    id: str
    config: RunConfig
    shape: PromptShape
    trains: int = 0

    @property
    def alone(self) -> bool:
        """Whether it changes the trunk, and so trains when nobody else does."""
        return METHODS[self.config.method].trains_weights()

    @property
    def parameters(self) -> int:
        """Trainable numbers."""
        return parameter_count(self.shape) + self.trains

    def steps(self, rows: int) -> int:
        """Training steps over so many rows: `steps` where given, else whole epochs."""
        if self.config.steps is not None:
            return self.config.steps
        return self.config.epochs * math.ceil(rows / self.config.batch_size)


class NoPrompts(PromptShape):
    """The shape of a baseline's run: T tasks, and `length` tokens, or none, that no composition makes."""

    def __post_init__(self) -> None:
        """All sizes are those of another shape, or 0."""

    @property
    def target_length(self) -> int:
        return self.length


def bytes_at_once(runs: Sequence[Run], width: int) -> int:
    """Of the parameters and moments of the largest `runs` that train at a time, up to `width` of them; of those that
    train alone one.
    """
    together = sorted((12 * run.parameters for run in runs if not run.alone), reverse=True)
    return max([sum(together[:width]), *(12 * run.parameters for run in runs if run.alone)])


def sources_of(settings: JobSettings, tasks: Sequence[str]) -> list[str]:
    """The tasks whose stored prompts a job's runs start from: those that it names, or else its own `tasks`."""
    return settings.source_tasks or list(tasks)


def run_sources(settings: JobSettings, tasks: Sequence[str], config: RunConfig) -> list[str]:
    """The tasks whose stored prompts a run has as sources: all of `sources_of`, or of a chain those before its own."""
    every = sources_of(settings, tasks)
    return every[: every.index(config.task)] if config.source_init == CHAIN and config.task in every else every


def plan_runs(settings: JobSettings, *, tasks: Sequence[str], d_model: int, named: Collection[str] = ()) -> list[Run]:
    """Every run of a job's sweep for the `tasks`, by name, in the order of its choices.

    Ids name the settings that have several values, and those whose fields are `named`. A flag that a preset ignores
    (`--sources` for pt), or that another makes void (`--max-train` with a number of shots), makes no second run of it.
    Of a preset that is trained apart, or with `apart`, each run becomes one a task.

    Raises `InputError` for values that do not go together.
    """
    runs = each_run(settings, tasks=tasks, d_model=d_model, named=named)
    for why in without_use(settings, [run.config for run in runs]).values():
        raise InputError(why.format(", ".join(settings.sweep.methods)))
    return runs


def each_run(settings: JobSettings, *, tasks: Sequence[str], d_model: int, named: Collection[str] = ()) -> list[Run]:
    """The same, whether or not something else than these runs has a use for what is given."""
    source_tasks = len(sources_of(settings, tasks))
    sweep = settings.sweep
    several = {name for name, values in sweep.values.items() if len(values) > 1} | set(named)
    varied = [flag for flag in RUN_FLAGS.values() if not flag.in_id and flag.field in several]
    runs: dict[RunConfig, Run] = {}
    for choice in sweep.choices():
        preset = METHODS[choice["method"]]
        apart = preset.apart if settings.apart is None else settings.apart
        if not apart and preset.init("source") == CHAIN:
            raise InputError(f"method {choice['method']} trains one task after another: leave out --no-apart")
        own_tasks = 1 if apart else len(tasks)
        whole = resolve(choice, tasks=own_tasks, d_model=d_model, source_tasks=source_tasks)
        for config in [replace(whole, task=name) for name in tasks] if apart else [whole]:
            if config.source_init == CHAIN:
                config = replace(config, sources=len(run_sources(settings, tasks, config)))
            runs.setdefault(config, Run(_run_id(config, varied), config, _shape(config, own_tasks, d_model)))
    return list(runs.values())


def planned_as(name: str, config: RunConfig, *, tasks: int, d_model: int) -> Run:
    """The run of this id and configuration in a job of so many tasks."""
    return Run(name, config, _shape(config, tasks if config.task is None else 1, d_model))


def keep_ids(runs: list[Run], recorded: Mapping[str, RunConfig]) -> list[Run]:
    """`runs` with the ids under which they, or runs that differ in the seed alone, are `recorded`.

    The id that a plan gives a run names what varies in that plan. Where a sweep grows more varies,
    and what is trained already keeps its name.
    """
    ids = {config: name for name, config in recorded.items()}
    alike = {replace(config, seed=0): (name, config.seed) for name, config in recorded.items()}
    kept = []
    for run in runs:
        name = ids.get(run.config)
        if name is None and replace(run.config, seed=0) in alike:
            other, seed = alike[replace(run.config, seed=0)]
            name = other.replace(f"-s{seed}", f"-s{run.config.seed}", 1)
        kept.append(replace(run, id=name or run.id))
    return kept


def _run_id(config: RunConfig, varied: Sequence[RunFlag]) -> str:
    parts = [config.method]
    if config.sources and config.source_init != CHAIN:  # whose number is that of the tasks before, and no choice
        parts.append(f"n{config.sources}")
    parts.append("full" if config.shots is None else f"k{config.shots}")
    parts.append(f"s{config.seed}")
    parts += [f"{flag.name}{getattr(config, flag.field)}" for flag in varied]
    if config.task is not None:
        parts.append(config.task)
    return "-".join(parts)


def _shape(config: RunConfig, tasks: int, d_model: int) -> PromptShape:
    """The shape of a run's prompts: what `PromptShape` has of its settings, and the sizes."""
    if METHODS[config.method].trains_weights():
        return NoPrompts("pt", tasks, 0, False, 0, d_model, encoder="none")
    roles = config.encoded_roles
    one_of_two = config.encoder != "none" and config.sources > 0 and config.private and len(roles) == 1
    called = {flag.field: flag.shape for flag in RUN_FLAGS.values() if flag.shape}
    values = {called.get(name, name): value for name, value in config.to_json().items()}
    own = {field.name: values[field.name] for field in fields(PromptShape) if field.name in values}
    try:
        return PromptShape(tasks=tasks, d_model=d_model, encoded=roles[0] if one_of_two else "both", **own)
    except InputError as error:
        raise InputError(f"method {config.method}: {error}") from None
