"""Takes one training step after another: operator by operator or by a graph, each packed while the one before runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from compt_fast.models.api import Trunk
from compt_fast.training.cohort import Cohort
from compt_fast.training.graphs import Fitted, Graphs
from compt_fast.training.step import Inputs, Packed, forward, gradients, members_of, pack, update


class Stepper:
    """The steps of all runs that train side by side; of each, `begin`, what that returns, and `prepare` of the next.

    `graphs`, where there are any, take the steps that they can.
    """

    def __init__(self, trunk: Trunk, graphs: Graphs | None) -> None:
        self._trunk = trunk
        self._graphs = graphs
        self._next: tuple[Packed, Fitted | None] | None = None

    def begin(self, cohorts: Sequence[Cohort]) -> tuple[Packed, Callable[[], Tensor]]:
        """Do as much of the present step as changes no run: what was packed for it, and what does the rest and gives
        the result of `update`, for which nobody waits.

        What `prepare` made is taken if the same runs train now as then, and else thrown away.
        """
        ahead, self._next = self._next, None
        packed, fitted = ahead or self._pack(cohorts)
        if packed.members != members_of(cohorts):
            packed, fitted = self._pack(cohorts)
        if self._graphs is not None and fitted is not None:
            return packed, partial(self._graphs.step, cohorts, fitted)
        inputs = Inputs.of(self._trunk, cohorts, packed)
        losses = forward(cohorts, inputs)
        return packed, partial(update, cohorts, inputs, losses, gradients(cohorts, losses))

    def prepare(self, cohorts: Sequence[Cohort]) -> None:
        """Pack the step after the present one, which the members do not count yet."""
        self._next = self._pack(cohorts, ahead=1)

    def _pack(self, cohorts: Sequence[Cohort], ahead: int = 0) -> tuple[Packed, Fitted | None]:
        packed = pack(cohorts, ahead)
        return packed, self._graphs.fit(cohorts, packed) if self._graphs is not None else None
