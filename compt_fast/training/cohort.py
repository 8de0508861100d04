"""Runs in training whose parameters have the same shapes, stacked along a run axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from compt_fast.ops import compose as fused
from compt_fast.prompts.artifact import About, RunPrompts, save_prompts
from compt_fast.prompts.compose import Composition, compose
from compt_fast.prompts.parameters import PromptBank, rate_groups
from compt_fast.prompts.shape import PromptShape
from compt_fast.tasks.examples import TrainingRow
from compt_fast.tasks.sampling import EpochOrder
from compt_fast.training.optimizer import FleetAdamW, Hyperparameters, schedule
from compt_fast.training.plan import Run

if TYPE_CHECKING:
    from compt_fast.models.api import Trunk
    from compt_fast.training.step import Packed


class Steps(Protocol):
    """What takes training steps: of each, `begin`, what that returns, and `prepare` of the next."""

    def begin(self, cohorts: Sequence[Cohort]) -> tuple[Packed, Callable[[], Tensor]]:
        """What was packed for the present step, and what does it and gives the result of `step.update`."""

    def prepare(self, cohorts: Sequence[Cohort]) -> None:
        """Pack the step after the present one."""


@dataclass
class Member:
    """A run in training. Its order of rows and random draws follow from seed and `step` alone."""

    run: Run
    rows: list[TrainingRow]
    start: dict[str, Tensor] = field(default_factory=dict)  # parameters that start from stored values
    teachers: Tensor | None = None  # prompts (T, L, d) on the trunk's device, one a task, that it learns from
    step: int = 0
    stopped: str = ""  # why, once loss or gradient were not finite
    selected: int = 0  # the step of the last development score
    best: RunPrompts | None = None
    development: dict[str, Any] | None = None  # the development scores of `best`, as in results.json
    developed: tuple[int, dict[str, Any]] = (0, {})  # the last development scores and their step, so that none is twice
    total: int = field(init=False)
    order: EpochOrder = field(init=False)

    def __post_init__(self) -> None:
        config = self.run.config
        self.total = self.run.steps(len(self.rows))
        self.order = EpochOrder(len(self.rows), config.batch_size, config.seed)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it beside its tensors."""
        return {
            "run": self.run.id,
            "step": self.step,
            "stopped": self.stopped,
            "selected": self.selected,
            "development": self.development,
        }

    @property
    def best_score(self) -> float:
        """The average development score of `best`."""
        return float("-inf") if self.development is None else float(self.development["average"])

    @property
    def finished(self) -> bool:
        return self.step >= self.total

    def batch(self, ahead: int = 0) -> list[TrainingRow]:
        """The rows of the present step, or of the step `ahead` steps later."""
        return [self.rows[int(i)] for i in self.order.batch(self.step + ahead)]


class Cohort:
    """Prompt bank, optimizer state and members of the runs of one `PromptShape`.

    `stepper` takes its steps where it trains alone; None: the job's, with those of the others.
    """

    stepper: Steps | None = None

    def __init__(self, shape: PromptShape, embedding: Tensor) -> None:
        self.shape = shape
        self.groups = rate_groups(shape)
        self.embedding = embedding
        self.members: list[Member] = []
        self.bank: PromptBank | None = None
        self.optim: FleetAdamW | None = None

    def admit(self, *members: Member) -> None:
        """Let runs in, their parameters freshly drawn from their seeds but for those that they start with.

        All at a time: each time everything that is there is copied.
        """
        banks = [self._fresh(member) for member in members]
        fresh = PromptBank.concat(banks) if len(banks) > 1 else banks[0]
        if self.bank is None or self.optim is None:
            self.bank, self.optim = fresh, FleetAdamW(fresh.params)
        else:
            self.bank = PromptBank.concat([self.bank, fresh])
            self.optim.extend(fresh.params)
        self.members += members

    def _fresh(self, member: Member) -> PromptBank:
        config = member.run.config
        fresh = PromptBank.create(
            self.shape,
            [config.seed],
            init=config.init,
            init_range=config.init_range,
            embedding=self.embedding,
            device=self.embedding.device,
            task=config.task,
        )
        with torch.no_grad():
            for name, values in member.start.items():
                fresh.params[name][0].copy_(values)
        return fresh

    def keep(self, indices: list[int]) -> None:
        """Let every run but those at `indices` go."""
        assert self.bank is not None and self.optim is not None
        self.members = [self.members[i] for i in indices]
        if not indices:
            self.bank = self.optim = None
            return
        chosen = torch.tensor(indices, device=self.embedding.device)
        self.bank = self.bank.select(indices)
        self.optim.select(chosen)

    @property
    def params(self) -> dict[str, Tensor]:
        """All members' parameters (R, ...) by name."""
        assert self.bank is not None
        return self.bank.params

    def draws(self, ahead: int = 0) -> dict[str, Tensor]:
        """What a router that samples draws its weights by at the present steps, or `ahead` steps later, on the
        CPU; else nothing.
        """
        router = self.shape.entries.router
        if router.sample is None:
            return {}
        drawn = [self._noise(m, ahead) for m in self.members]
        noise = {"noise": torch.cat(drawn) if router.per_row else torch.stack(drawn)}
        if router.temperature is None:
            return noise
        return noise | {"temperature": router.temperature(self._steps(ahead), _by_run([m.total for m in self.members]))}

    def compose(self, draws: dict[str, Tensor]) -> Composition:
        """The training composition of all members with their `draws`, which are on the device."""
        temperature, noise = draws.get("temperature"), draws.get("noise")
        return fused.compose(self.params, self.shape, training=True, temperature=temperature, noise=noise)

    def hyperparameters(self, ahead: int = 0) -> Hyperparameters:
        """What all members are updated by at their present steps, or `ahead` steps later."""
        configs = [m.run.config for m in self.members]
        step = self._steps(ahead)
        share = schedule(step, _by_run([m.total for m in self.members]), _by_run([c.warmup for c in configs]))
        groups = dict.fromkeys(self.groups.values())
        rates = {group: share * _by_run([c.rate(group) for c in configs]) for group in groups}
        decay, clip = ([getattr(c, name) for c in configs] for name in ("weight_decay", "clip_norm"))
        by_name = {name: rates[self.groups[name]] for name in self.params}
        return Hyperparameters(by_name, _by_run(decay), _by_run(clip), step)

    def frozen(self, name: str) -> list[int]:
        """The runs, by their index, that have a rate of 0 for the parameter `name`, which keeps its bits."""
        group = self.groups[name]
        return [i for i, member in enumerate(self.members) if member.run.config.rate(group) == 0]

    @torch.no_grad()
    def prompts(self, index: int) -> RunPrompts:
        """What the run at `index` would be evaluated with now."""
        assert self.bank is not None
        own = self.bank.select([index])
        composition = compose(own.params, self.shape, training=False)
        return RunPrompts.of(self.shape, composition, own.params)

    def scored_by(self, trunk: Trunk, prompts: RunPrompts) -> Trunk:
        """The trunk that `prompts` of a member are scored with: the job's."""
        return trunk

    def save(self, folder: Path, prompts: RunPrompts, about: About) -> None:
        """Write the `prompts` of a member, which are done, into the run folder."""
        save_prompts(folder / "prompts" / about.name, prompts, about)

    def _steps(self, ahead: int) -> Tensor:
        return _by_run([m.step + ahead for m in self.members])

    def _noise(self, member: Member, ahead: int) -> Tensor:
        """Uniform noise of one of a run's steps: (T, n_weights), or (B, n_weights) of its rows where the router is of
        each row.
        """
        generator = torch.Generator().manual_seed(member.run.config.seed * 1_000_003 + member.step + ahead)
        places = len(member.batch(ahead)) if self.shape.entries.router.per_row else self.shape.tasks
        return torch.rand(places, self.shape.n_weights, generator=generator)

    def run_tensors(self, index: int) -> dict[str, Tensor]:
        """All tensors that continue the run at `index`: parameters, moments, best prompts."""
        assert self.optim is not None
        kinds = {"param": self.params, "first": self.optim.first, "second": self.optim.second}
        tensors = {f"{kind}.{name}": t[index] for kind, of in kinds.items() for name, t in of.items()}
        best = self.members[index].best
        return tensors | {f"best.{name}": t for name, t in (best.tensors if best else {}).items()}

    @torch.no_grad()
    def restore(self, index: int, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Put back what `Member.state` and `run_tensors` gave for the run admitted at `index`."""
        assert self.optim is not None
        kinds = {"param": self.params, "first": self.optim.first, "second": self.optim.second}
        for kind, of in kinds.items():
            for name, whole in of.items():
                whole[index].copy_(tensors[f"{kind}.{name}"])
        best = {n.removeprefix("best."): t for n, t in tensors.items() if n.startswith("best.")}
        member = self.members[index]
        member.step, member.stopped = state["step"], state["stopped"]
        member.selected = state["selected"]
        if best:
            member.best, member.development = RunPrompts(self.shape, best), state["development"]


def _by_run(values: list[float]) -> Tensor:
    """One number a run, on the CPU: what is worked out from them goes to the device in one copy."""
    return torch.tensor(values, dtype=torch.float64)
