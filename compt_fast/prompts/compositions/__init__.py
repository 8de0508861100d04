"""Compositions: how sources and private prompts make a target prompt (ComPT Eq. 4, CrossPT Eq. 1), one kind a file.

To add a kind, add a file `new_kind.py` with `ENTRY = Rule(...)`, its line in
`compt_fast.config.compositions`, and a preset that takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from compt_fast.prompts.entry import Entry, Parameter, Rows, no_parameters
from compt_fast.utils.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from compt_fast.prompts.shape import PromptShape

ORDER = ("spp", "scp", "pt", "mst", "inside", "attempt", "progressive", "factored", "dept", "adept")


@dataclass(frozen=True)
class Parts:
    """What target prompts are made of, for places (...): the runs and tasks (R, T), or rows (B,).

    mixture (..., m, d): sum_i w[i] P_src[i]. privates (..., m, d), zero where masked. weights (..., n_weights), gates
    (..., 2): alpha (private) and beta (sources). What a shape has not, or a mask has removed, is None. params are the
    runs' parameters; rows, only where something depends on the input, says whose each row is. sources (..., N, m, d),
    only where they are listed, are zero where masked, or fewer.
    """

    params: Mapping[str, Tensor]
    mixture: Tensor | None
    privates: Tensor | None
    weights: Tensor | None
    gates: Tensor | None
    rows: Rows | None = None
    sources: Tensor | None = None


InputUpdate = Callable[[Mapping[str, "Tensor"], "PromptShape", Rows], "Tensor"]


def no_rank(shape: PromptShape) -> int:
    """The rank of an update that is none."""
    return 0


def one_prompt(shape: PromptShape) -> int:
    """Tokens of a target prompt that is as long as its parts: m."""
    return shape.length


@dataclass(frozen=True)
class Rule(Entry):
    """A kind of composition; what it leaves out is that of `spp`, but for its gates."""

    formula: Callable[[Parts], Tensor]
    """Of parts for places (...): the target prompts (..., L, d)."""
    sources: Literal["none", "one", "many", "listed"] = "many"
    """How many there are; many: one or more, which are mixed; listed: any number, which nothing weighs."""
    private: bool | None = True
    """Whether each task has a private prompt; None leaves that to the shape."""
    private_inside: bool = False
    """The private prompt, too, has a weight, the last."""
    gated: bool = False
    """Alpha and beta stand in the formula."""
    removable: bool = False
    """Mixture (or listed sources) and private prompt are concatenated, and a mask can take one of them out."""
    router: str = ""
    """The only router that goes with it; empty: the shape chooses."""
    normalisation: str = ""
    """What `auto` stands for; empty: what ComPT says (`PromptShape.normaliser`)."""
    target_length: Callable[[PromptShape], int] = one_prompt
    """L."""
    parameters: Callable[[PromptShape], dict[str, Parameter]] = no_parameters
    per_row: bool = False
    """The formula is a function of the input, and is asked for rows only."""
    input_update: InputUpdate | None = None
    """input_update(params, shape, rows) -> (N, d): what is added to the token embeddings of the rows' texts. Of params
    it has those of `mixing_parameters`, and a row's update may depend on nothing beside that row and its run.
    """
    update_rank: Callable[[PromptShape], int] = no_rank
    """The rank of an update, where the shape says none."""
    by_place: bool = False
    """The update goes by a token's place in its text, up to the shape's `update_length`."""


COMPOSITIONS: Registry[Rule] = Registry(__name__)
