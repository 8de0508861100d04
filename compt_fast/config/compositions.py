"""What settings and reports have to know of compositions without torch: facts of the `Rule` of each, by its name.

A composition of `compt_fast.prompts.compositions` has a line here, which tests hold equal to its rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compt_fast.utils.errors import unknown

NO_PROMPT = "none"
"""The composition of what trains the trunk's weights, or further ones, and no prompts."""


@dataclass(frozen=True)
class Composed:
    """`sources` as of a `Rule`: "many" are mixed by a router, "listed" are weighed by nothing.

    `factors`: a task's own part are factors that scale what tasks share; `gated`: gates stand in the formula;
    `updates`: the token embeddings of the texts are updated, `by_place`: by their places.
    """

    sources: Literal["none", "one", "many", "listed"]
    gated: bool = False
    factors: bool = False
    updates: bool = False
    by_place: bool = False

    @property
    def has_sources(self) -> bool:
        """Whether there are source prompts, as many as it may be."""
        return self.sources != "none"


COMPOSED: dict[str, Composed] = {
    "spp": Composed("many", gated=True),
    "scp": Composed("many", gated=True),
    "pt": Composed("none"),
    "mst": Composed("one"),
    "inside": Composed("many"),
    "attempt": Composed("many"),
    "progressive": Composed("listed"),
    "factored": Composed("one", factors=True),
    "dept": Composed("none", updates=True, by_place=True),
    "adept": Composed("none", updates=True),
    NO_PROMPT: Composed("none"),
}


def composed(name: str) -> Composed:
    """The facts of a composition; `InputError` for the name of none."""
    if name not in COMPOSED:
        raise unknown("composition", name, COMPOSED)
    return COMPOSED[name]
