"""A budget for the whole of a job: once it is spent all that train are stopped where they are, and can go on later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compt_fast.config.budget import Budget
from compt_fast.training.control import Uncontrolled

if TYPE_CHECKING:
    from compt_fast.training.interrupts import Interrupts
    from compt_fast.training.loop import Trainer
    from compt_fast.training.monitor import Monitor


def spent(trainer: Trainer) -> bool:
    """Whether the budget of a job is."""
    return Budget.of(trainer.settings.budget).spent(trainer.wall_seconds, trainer.tokens)


@dataclass
class Spending(Uncontrolled):
    """Ends a job once its budget is spent, and keeps in mind what it `stopped`."""

    name: str = "budget"
    stopped: list[str] = field(default_factory=list)

    def act(self, trainer: Trainer, monitor: Monitor, interrupts: Interrupts) -> None:
        if not spent(trainer):
            return
        trainer.closed = True
        training = list(trainer.members)
        judged = trainer.scores and (trainer.halves or trainer.settings.develops)
        begun = [(cohort, member) for cohort, member in training if judged and member.step]
        developed = trainer.develop(begun, monitor, interrupts)
        scores = {member.run.id: of for (_, member), of in zip(begun, developed, strict=True)}
        for name in [*(member.run.id for _, member in training), *trainer.returning]:
            trainer.stop(name, f"the budget of {trainer.settings.budget} was spent", scores.get(name))
            self.stopped.append(name)

    def state(self) -> dict[str, Any]:
        return {"stopped": self.stopped}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.stopped = list(state["stopped"])


@dataclass
class TakingUp(Uncontrolled):
    """Lets go on what a budget had stopped, where there is more of it: before others decide, who would take it for runs
    that have ended.
    """

    name: str = "taking-up"
    spending: Spending = field(kw_only=True)

    def act(self, trainer: Trainer, monitor: Monitor, interrupts: Interrupts) -> None:
        if self.spending.stopped and not spent(trainer):
            for name in self.spending.stopped:
                if name in trainer.results:
                    trainer.resume(name)
            self.spending.stopped = []
