"""Gates: the factors alpha of the private prompt and beta of the sources' mixture (ComPT Eq. 4), one kind a file.

To add a kind, add a file `new_kind.py` with `ENTRY = Gate(...)`: `--gates new-kind` takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compt_fast.prompts.entry import Entry, Parameter
from compt_fast.utils.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from compt_fast.prompts.shape import PromptShape

ORDER = ("fixed", "learned", "learned-global", "tied", "input")


@dataclass(frozen=True)
class Gate(Entry):
    """A kind of gates.

    formula(params, shape) -> (R, T, 2), alpha and beta of each run and task, in the parameters' dtype. Gates that are
    `per_row` are a function of the input: formula(params, shape, rows) -> (B, 2), with rows a `Rows`.
    """

    parameters: Callable[[PromptShape], dict[str, Parameter]]
    formula: Callable[..., Tensor]
    per_row: bool = False


GATES: Registry[Gate] = Registry(__name__)
