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


@dataclass
class Spending(Uncontrolled):
    """Ends a job once its budget is spent, and takes up again what it `stopped` where there is more of it."""

    name: str = "budget"
    stopped: list[str] = field(default_factory=list)

    def act(self, trainer: Trainer, monitor: Monitor, interrupts: Interrupts) -> None:
        budget = Budget.of(trainer.settings.budget)
        if not budget.spent(trainer.wall_seconds, trainer.tokens):
            for name in self.stopped:
                if name in trainer.results:
                    trainer.resume(name)
            self.stopped = []
            return
        trainer.closed = True
        judged = trainer.halves or trainer.settings.select == "best"
        training = list(trainer.members)
        scores = {m.run.id: trainer.develop(c, m, monitor, interrupts) for c, m in training if judged}
        for name in [*(member.run.id for _, member in training), *trainer.returning]:
            trainer.stop(name, f"the budget of {trainer.settings.budget} was spent", scores.get(name))
            self.stopped.append(name)

    def state(self) -> dict[str, Any]:
        return {"stopped": self.stopped}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.stopped = list(state["stopped"])
