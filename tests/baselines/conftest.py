"""The trunk of the baselines' tests, a batch for it, and what a method makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from compt_fast.baselines.making import tuned_trunk
from compt_fast.baselines.trunk import TunedTrunk
from compt_fast.config.baselines import METHODS
from compt_fast.config.job import Sweep
from compt_fast.config.resolve import resolve
from compt_fast.models.batch import Batch, TargetPrompts, make_batch
from compt_fast.models.engines.reference import ReferenceTrunk
from compt_fast.training.plan import NoPrompts, Run

TASKS = 2
Make = Callable[..., TunedTrunk]


def run_of(method: str, d_model: int, **changes: Any) -> Run:
    """A run of a baseline over `TASKS` tasks."""
    (choice,) = Sweep.of(method=[method], **{name: [value] for name, value in changes.items()}).choices()
    config = resolve(choice, tasks=TASKS, d_model=d_model)
    length = config.prompt_length if method == "p-tuning" else 0
    return Run(method, config, NoPrompts("pt", TASKS, 0, False, length, d_model, encoder="none"))


@pytest.fixture(scope="session")
def fresh(tiny_t5: Path) -> Callable[[], ReferenceTrunk]:
    """Opens the tiny T5 anew."""
    return lambda: ReferenceTrunk.load(str(tiny_t5), dtype=torch.float32, device="cpu", prompt_position="prepend")


@pytest.fixture(scope="session")
def make(fresh: Callable[[], ReferenceTrunk]) -> Make:
    """The tiny T5 as a method makes it."""

    def made(method: str, **changes: Any) -> TunedTrunk:
        trunk = fresh()
        assert METHODS[method].trains_weights()
        return tuned_trunk(trunk, run_of(method, trunk.d_model, **changes))

    return made


@pytest.fixture(scope="session")
def batch() -> Batch:
    """Rows of several lengths, of both tasks."""
    return make_batch(
        [[5, 9, 30, 1], [7, 1], [11, 12, 13, 14, 15, 1]], [[21, 22, 1], [23, 1], [24, 25, 26, 1]], [0, 1, 0]
    )


def targets(trunk: TunedTrunk) -> TargetPrompts:
    """Its prompt for each task, or an empty one."""
    tokens = trunk.tuned.prompt()
    tokens = torch.zeros(0, trunk.d_model, dtype=trunk.embedding.dtype) if tokens is None else tokens
    return TargetPrompts.from_stacks([tokens.expand(TASKS, -1, -1)])


def perturb(trunk: TunedTrunk, seed: int = 0) -> None:
    """Move all that trains, so that what starts at 0 or 1 has an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in trunk.tuned.trained().values():
            weight += 0.1 * torch.randn(weight.shape, generator=generator).to(weight)
