"""Baselines made for a run: its weights, and how many of them train."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from compt_fast.baselines.methods import TUNINGS, Sizes, Tuned
from compt_fast.baselines.trunk import TunedTrunk
from compt_fast.config.baselines import METHODS
from compt_fast.config.choices import AUTO
from compt_fast.config.run import RunConfig
from compt_fast.models.api import Trunk
from compt_fast.models.base import BaseTrunk
from compt_fast.models.engines.reference import ReferenceTrunk
from compt_fast.models.families import T5
from compt_fast.training.plan import Run
from compt_fast.utils.errors import InputError

ENGINE = "reference"
"""What runs baselines."""


def tuned(model: Any, config: RunConfig, tasks: int) -> Tuned:
    """What the method of `config` makes of a frozen model, which it takes over. New weights follow from the run's seed
    and its task alone. Raises `InputError` for a model that it cannot take, and where a package is missing.
    """
    made = TUNINGS[METHODS[config.method].weights]
    digest = hashlib.sha256(f"{config.seed} {config.task}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        return made(model, Sizes(tasks, config.prompt_length, config.bottleneck)).eval()


def tuned_trunk(fresh: Trunk, run: Run) -> TunedTrunk:
    """The trunk of a run, made of one of the engine `reference` that belongs to nobody else."""
    assert isinstance(fresh, ReferenceTrunk)
    device = fresh.device
    return TunedTrunk(fresh, tuned(fresh.model.cpu(), run.config, run.shape.tasks).to(device))


def check_family(trunk: Trunk, run: Run) -> None:
    """Raise `InputError` for a trunk that no baseline changes: all of them know the layers of a T5 alone."""
    if trunk.family not in T5.classes():
        raise InputError(
            f"{run.id}: {run.config.method} changes the layers of a T5, and the trunk {trunk.name} is a "
            f"{trunk.family}: leave out the baselines, or take a {T5.text}"
        )


def check_engine(engine: str, run: Run) -> None:
    """Raise `InputError` where an engine is asked for that computes a frozen trunk alone."""
    if engine not in (AUTO, ENGINE):
        raise InputError(
            f"{run.id}: {run.config.method} trains weights in the trunk, and --engine {engine} has a frozen one: take "
            f"--engine {AUTO}, by which baselines run on {ENGINE} and prompts on whatever is the quickest, or --engine "
            f"{ENGINE}"
        )


def counted(runs: Sequence[Run], trunk: Trunk, engine: str) -> list[Run]:
    """`runs`, of which the baselines know how many weights they train in a trunk's model, and the shape of their
    prompts. Raises `InputError` as `tuned` does, for another trunk than a T5, and for an `engine` that computes none of
    them.
    """

    @cache
    def skeleton(config: RunConfig, tasks: int) -> tuple[int, int]:
        from transformers import AutoModelForSeq2SeqLM

        assert isinstance(trunk, BaseTrunk)  # as those of every engine are
        with torch.device("meta"):
            made = tuned(AutoModelForSeq2SeqLM.from_config(trunk.config).requires_grad_(False), config, tasks)
        return sum(p.numel() for p in made.trained().values()), config.prompt_length if made.prompted else 0

    found = []
    for run in runs:
        if run.alone:
            check_family(trunk, run)
            check_engine(engine, run)
            alike = replace(run.config, seed=0, task=None, shots=None, lr_weights=1.0, label_mode="natural")
            count, length = skeleton(alike, run.shape.tasks)
            run = replace(run, trains=count, shape=replace(run.shape, length=length))
        found.append(run)
    return found
