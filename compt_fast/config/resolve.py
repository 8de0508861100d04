"""From the values that a line names to the configuration of a run: the preset's, and what those leave idle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from compt_fast.config.baselines import METHODS, REDUCED, REDUCTION
from compt_fast.config.choices import HIDDEN
from compt_fast.config.compositions import composed
from compt_fast.config.fields import FULL
from compt_fast.config.presets import (
    CHAIN,
    INIT_RANGE,
    PER_TASK,
    RANDOM,
    SHARED,
    STORED,
    encoded_roles,
)
from compt_fast.config.run import MAX_TRAIN, RUN_FLAGS, RunConfig
from compt_fast.utils.errors import InputError, unknown

FEW = 10  # shots, up to which a preset's epochs double


def resolve(choice: Mapping[str, Any], *, tasks: int, d_model: int, source_tasks: int | None = None) -> RunConfig:
    """The run that `choice` (one value a field, None where the preset decides) means for so many
    tasks, source tasks (default: as many as tasks) and such a trunk.

    Sources that start from stored prompts are one a source task; of a chain, whose number is each task's own, none
    here (`compt_fast.training.plan.plan_runs`). Prompts that start from stored
    values, which a prompt encoder has already made, have none.

    What the other values leave without effect is settled, so that it makes no second run.

    Few shots (10 or fewer) double a preset's epochs, as in ComPT's published code; epochs that the
    user names are taken as they are.

    Raises `InputError` for an unknown method and for values out of range.
    """
    method = choice["method"]
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    preset = METHODS[method]
    own = {flag.field: preset.settings.get(flag.field, flag.usual) for flag in RUN_FLAGS.values()}
    given = {flag.field: choice.get(flag.field) for flag in RUN_FLAGS.values() if flag.used(preset)}
    values = own | {name: value for name, value in given.items() if value is not None}
    if values["source_init"] == STORED:
        values["sources"] = tasks if source_tasks is None else source_tasks
    if values["sources"] == PER_TASK:
        values["sources"] = tasks
    if not encoded_roles(preset.composition, preset.private, values["source_init"], values["private_init"]):
        values |= {"encoder": "none", "encoder_sharing": own["encoder_sharing"]}
    if values["encoder"] == "none":
        values["lr_encoder"] = None
    if values["bottleneck"] == REDUCED:
        values["bottleneck"] = max(1, d_model // REDUCTION)
    values["encoder_hidden"] = _hidden(values, d_model)
    if values["shots"] == FULL:
        values["shots"] = None
    if values["shots"] is not None and values["shots"] <= FEW and choice.get("epochs") is None:
        values["epochs"] *= 2
    config = RunConfig(composition=preset.composition, private=preset.private, **values)
    _check(config)
    return settled(config)


def settled(config: RunConfig) -> RunConfig:
    """`config` with the defaults of what changes nothing in it: `max_train` beside a number of shots,
    `init_range` where tokens start from the vocabulary, a temperature of what is not distilled.
    """
    if config.shots is not None:
        config = replace(config, max_train=MAX_TRAIN)
    if config.init == "vocab":
        config = replace(config, init_range=INIT_RANGE)
    return config if config.distil else replace(config, distil_temperature=1.0)


def _hidden(values: Mapping[str, Any], d_model: int) -> int:
    """Width of the encoder's hidden layer: d_model by default, 0 where the encoder has none."""
    if values["encoder"] not in HIDDEN:
        return 0
    return d_model if values["encoder_hidden"] is None else values["encoder_hidden"]


def _check(config: RunConfig) -> None:
    """Numbers that no training can use, named by their flag."""
    preset = METHODS[config.method]
    for flag in RUN_FLAGS.values():
        if flag.used(preset):
            flag.check(getattr(config, flag.field))
    if config.encoder in HIDDEN and config.encoder_hidden < 1:
        raise InputError(f"--encoder-hidden must be above 0, not {config.encoder_hidden}")
    facts = composed(config.composition)
    if config.source_init == (STORED if facts.factors else SHARED):
        choices = f"{RANDOM} or {SHARED if facts.factors else STORED}"
        raise InputError(f"--source-init of method {config.method!r} is {choices}, not {config.source_init}")
    if config.sources < 1 and facts.has_sources and config.source_init != CHAIN:
        raise InputError(f"--sources must be at least 1 for method {config.method!r}, not {config.sources}")
