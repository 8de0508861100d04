"""A baseline's run in training: a cohort of its own, over a trunk of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from compt_fast.baselines.trunk import TunedTrunk
from compt_fast.models.api import Trunk
from compt_fast.prompts.artifact import About, RunPrompts
from compt_fast.prompts.compose import Composition
from compt_fast.training.cohort import Cohort, Member
from compt_fast.training.optimizer import FleetAdamW
from compt_fast.training.plan import Run
from compt_fast.training.step import Inputs, Packed, forward, pack, update
from compt_fast.utils.files import new_folder

GROUP = "weights"


class TunedCohort(Cohort):
    """The one member that a baseline's trunk has. Its parameters (1, ...) are the trunk's weights that train."""

    def __init__(self, run: Run, trunk: TunedTrunk) -> None:
        super().__init__(run.shape, trunk.embedding)
        self.trunk = trunk
        self.weights = trunk.tuned.trained()
        self.groups = dict.fromkeys(self.weights, GROUP)
        self.stepper = AloneStepper()

    def admit(self, *members: Member) -> None:
        self.members += members
        self.optim = FleetAdamW(self.params)

    def keep(self, indices: list[int]) -> None:
        self.members = [self.members[i] for i in indices]

    @property
    def params(self) -> dict[str, Tensor]:
        return {name: p.detach()[None] for name, p in self.weights.items()}

    def compose(self, draws: dict[str, Tensor]) -> Composition:
        return Composition(self._targets()[None], None, None, None, None)

    def _targets(self) -> Tensor:
        """The same prompt tokens for each task, or none: (T, L, d)."""
        tokens = self.trunk.tuned.prompt()
        if tokens is None:
            tokens = torch.zeros(0, self.shape.d_model, device=self.embedding.device)
        return tokens.expand(self.shape.tasks, -1, -1)

    @torch.no_grad()
    def prompts(self, index: int) -> RunPrompts:
        """What it would be scored with now: its prompt tokens and copies of its weights."""
        kept = {"targets": self._targets(), **{f"{GROUP}.{name}": p for name, p in self.weights.items()}}
        return RunPrompts(self.shape, {name: t.detach().to("cpu", copy=True).contiguous() for name, t in kept.items()})

    def scored_by(self, trunk: Trunk, prompts: RunPrompts) -> Trunk:
        """Its own trunk, with the weights of `prompts`."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(prompts.tensors[f"{GROUP}.{name}"])
        return self.trunk

    def save(self, folder: Path, prompts: RunPrompts, about: About) -> None:
        """Write its weights below the run folder, where they are worth it."""
        if self.trunk.tuned.kept:
            self.scored_by(self.trunk, prompts)
            with new_folder(folder / "weights" / about.name) as temporary:
                self.trunk.tuned.save(temporary)


class AloneStepper:
    """The steps of a run that trains alone: those of `training.step`, over the weights of its own trunk."""

    def begin(self, cohorts: Sequence[Cohort]) -> tuple[Packed, Callable[[], Tensor]]:
        """As `Stepper.begin`."""
        (cohort,) = cohorts
        assert isinstance(cohort, TunedCohort)
        packed = pack(cohorts)
        inputs = Inputs.of(cohort.trunk, cohorts, packed)
        losses = forward(cohorts, inputs)
        weights = list(cohort.weights.values())
        found = torch.autograd.grad(losses.sum(), weights, allow_unused=True)
        grads = [torch.zeros_like(p) if g is None else g for g, p in zip(found, weights, strict=True)]
        return packed, partial(update, cohorts, inputs, losses, [[g[None] for g in grads]])

    def prepare(self, cohorts: Sequence[Cohort]) -> None:
        """Nothing is packed ahead."""
