"""From flags to runs: the product of all comma lists, each with its configuration and its id."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from compt_fast.config.flags import RUN_FLAGS, Flags
from compt_fast.config.run import (
    PRESETS,
    RANDOM,
    SPOT,
    STORED,
    RunConfig,
    encoded_roles,
    flag_name,
    ignored_fields,
    resolve,
)
from compt_fast.prompts.parameters import parameter_count
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.errors import InputError

_FIELD = {"seeds": "seed"}  # the flag's name where it is not the field's
_IN_ID = (
    "method",
    "shots",
    "seeds",
    "sources",
)  # always part of an id; other flags where they vary


@dataclass(frozen=True)
class Run:
    """One training of the fleet: its id (a folder's name), configuration and prompts' shape."""

    id: str
    config: RunConfig
    shape: PromptShape

    @property
    def parameters(self) -> int:
        """Trainable numbers."""
        return parameter_count(self.shape)

    def steps(self, rows: int) -> int:
        """Training steps over so many rows: `steps` where given, else whole epochs."""
        if self.config.steps is not None:
            return self.config.steps
        return self.config.epochs * math.ceil(rows / self.config.batch_size)


def plan_runs(flags: Flags, *, tasks: Sequence[str], d_model: int) -> list[Run]:
    """Every run that the comma lists of `flags` multiply into for the `tasks`, by name, in the order of the lists.

    A flag that a preset ignores (`--sources` for pt), or that another makes void (`--max-train` with
    a number of shots), makes no second run of it. Of a preset that is trained apart, or with the flag `apart`, each
    run becomes one a task.

    Raises `InputError` for values that do not go together.
    """
    source_tasks = len(flags["source_tasks"] or tasks)
    keys = [flag.key for flag in RUN_FLAGS]
    varied = [key for key in keys if key not in _IN_ID and len(flags[key] or []) > 1]
    runs: dict[RunConfig, Run] = {}
    for values in itertools.product(*(flags[key] or [None] for key in keys)):
        choice = {_FIELD.get(key, key): value for key, value in zip(keys, values, strict=True)}
        choice["shots"] = None if choice["shots"] == "full" else choice["shots"]
        apart = PRESETS[choice["method"]].apart if flags["apart"] is None else flags["apart"]
        own_tasks = 1 if apart else len(tasks)
        whole = resolve(choice, tasks=own_tasks, d_model=d_model, source_tasks=source_tasks)
        for config in [replace(whole, task=name) for name in tasks] if apart else [whole]:
            runs.setdefault(config, Run(_run_id(config, varied), config, _shape(config, own_tasks, d_model)))
    _check_used(flags)
    _check_starts(flags, list(runs.values()))
    return list(runs.values())


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


def _check_used(flags: Flags) -> None:
    """A flag that only some of the methods use is fine; one that none of them uses is a mistake."""
    ignored = set.intersection(*(ignored_fields(PRESETS[method]) for method in flags["method"]))
    for field in sorted(ignored):
        if flags[field] is not None:
            methods = ", ".join(flags["method"])
            raise InputError(f"--{flag_name(field)} has no meaning for any of the methods trained ({methods})")
    if flags["sources"] is not None and flags["source_init"] == [STORED]:
        raise InputError(
            "--sources has no meaning with --source-init stored: there is one source a task of --source-tasks"
        )


def _check_starts(flags: Flags, runs: Sequence[Run]) -> None:
    """Flags of stored prompts are a mistake where no run starts from one."""
    inits = {(run.config.source_init, run.config.private_init) for run in runs}
    stored = [pair for pair in inits if pair != (RANDOM, RANDOM)]
    of_sources = [pair for pair in stored if pair[0] == STORED or pair[1] == SPOT]
    for key, used in (("source_tasks", of_sources), ("source_steps", stored), ("fit_length", stored)):
        if flags[key] is not None and not used:
            methods = ", ".join(flags["method"])
            by = "--source-init stored or --private-init spot" if key == "source_tasks" else "--private-init stored"
            raise InputError(
                f"--{flag_name(key)} has no meaning: none of the methods trained ({methods}) starts from stored "
                f"{'sources' if key == 'source_tasks' else 'prompts'}, as sil, sip and silp do, or any with {by}"
            )


def _run_id(config: RunConfig, varied: list[str]) -> str:
    parts = [config.method]
    if config.sources:
        parts.append(f"n{config.sources}")
    parts.append("full" if config.shots is None else f"k{config.shots}")
    parts.append(f"s{config.seed}")
    parts += [f"{key.replace('_', '-')}{getattr(config, key)}" for key in varied]
    if config.task is not None:
        parts.append(config.task)
    return "-".join(parts)


def _shape(config: RunConfig, tasks: int, d_model: int) -> PromptShape:
    roles = encoded_roles(config.to_json())
    one_of_two = config.encoder != "none" and config.composition != "pt" and config.private and len(roles) == 1
    try:
        return PromptShape(
            composition=config.composition,
            tasks=tasks,
            sources=config.sources,
            private=config.private,
            length=config.prompt_length,
            d_model=d_model,
            encoder=config.encoder,
            sharing=config.encoder_sharing,
            hidden=config.encoder_hidden,
            encoded=roles[0] if one_of_two else "both",
            router=config.router,
            normalisation=config.normalisation,
            gates=config.gates,
        )
    except InputError as error:
        raise InputError(f"method {config.method}: {error}") from None
