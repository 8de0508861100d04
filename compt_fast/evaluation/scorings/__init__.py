"""Scorings: how a trunk's answer to a row is found, one a file; `--scoring new-scoring` takes that of `new_scoring.py`.

To add one, add such a file with `ENTRY`, a function that `Scoring` describes. Nothing else of this package asks a trunk
for answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from compt_fast.utils.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from compt_fast.models.api import Trunk
    from compt_fast.models.batch import Batch, TargetPrompts

ORDER = ("generate", "rank")


@dataclass(frozen=True)
class Labels:
    """What may be answered to a row: the texts of a task's labels, and the token ids of each, with its </s>."""

    texts: Sequence[str]
    ids: Sequence[Sequence[int]]


class Scoring(Protocol):
    """How the answers of a batch are found."""

    def __call__(
        self,
        trunk: Trunk,
        targets: TargetPrompts,
        batch: Batch,
        labels: Sequence[Labels],
        longest: int,
        input_update: Tensor | None = None,
    ) -> Callable[[], list[str]]:
        """What gives each row's answer as text when it is called, until when a GPU may work at it. `labels` are by row,
        `longest` the tokens of the longest one of the job; `input_update` as of `Trunk.row_losses`.
        """


SCORINGS: Registry[Scoring] = Registry(__name__)
