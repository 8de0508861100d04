"""What decides, between steps, which runs of a job go on: halving, requests, a search that asks for more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from compt_fast.training.interrupts import Interrupts
    from compt_fast.training.loop import Trainer
    from compt_fast.training.monitor import Monitor


class Control(Protocol):
    """Asked by the trainer before every step, after runs that are through have left and before waiting ones enter.

    It changes who trains by `Trainer.stop`, `resume`, `add` and `close` alone. What they change is in a checkpoint
    before the next step, and so is `state`, so that a job that is killed goes on as decided.
    """

    name: str
    """What its state is kept under."""

    def act(self, trainer: Trainer, monitor: Monitor, interrupts: Interrupts) -> None:
        """Stop members, take stopped runs back in, add runs. Of what it has decided nothing may be lost where this
        ends early, by a signal: it is called again in the job that goes on.
        """

    def kept(self, trainer: Trainer) -> None:
        """What `act` changed is on the disk now, and nothing that ends the process takes it back."""

    def state(self) -> dict[str, Any]:
        """What it has to know in a job that goes on, as plain JSON values."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` gave."""


@dataclass
class Uncontrolled:
    """Every run trains to its end."""

    name: str = ""

    def act(self, trainer: Trainer, monitor: Monitor, interrupts: Interrupts) -> None:
        """Nothing is decided."""

    def kept(self, trainer: Trainer) -> None:
        """Nothing was."""

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing is known."""


@dataclass
class Together:
    """Several controls, asked one after another; each sees what those before it have changed."""

    controls: Sequence[Control]
    name: str = ""

    def act(self, trainer: Trainer, monitor: Monitor, interrupts: Interrupts) -> None:
        for control in self.controls:
            control.act(trainer, monitor, interrupts)

    def kept(self, trainer: Trainer) -> None:
        for control in self.controls:
            control.kept(trainer)

    def state(self) -> dict[str, Any]:
        return {control.name: control.state() for control in self.controls}

    def restore(self, state: Mapping[str, Any]) -> None:
        for control in self.controls:
            if control.name in state:
                control.restore(state[control.name])
