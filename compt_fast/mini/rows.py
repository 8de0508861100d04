"""Rows of the world in the shape of a hub data set: how an embedded task draws them from a skill.

Which tasks there are, and of which skill each is made, stands in the table of tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from compt_fast.mini.skills import Skill, Texts

Row = dict[str, str | int | float]
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Maker:
    """How a task's rows are made: label `i` draws from the example labels `meanings[i]` of a skill, and is written as
    a number where labels are `graded`.
    """

    skill: Skill
    meanings: tuple[tuple[int, ...], ...] = ((0,), (1,))
    graded: bool = False

    def draw(self, task: str, split: str, size: int, seed: int = 0) -> list[Row]:
        """Draw `size` class-balanced rows of the split `train` or `validation` of the task of that name.

        The same arguments give the same rows. No sentence occurs in both splits, whatever the sizes and seeds. A row
        holds `sentence1`, for tasks of two sentences `sentence2`, and `label`: a class number, or a float where
        labels are graded. Rows of one draw differ from each other.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be {' or '.join(map(repr, SPLITS))}, not {split!r}")
        rng = Random(f"{task} {split} {seed}")
        rows: list[Row] = []
        seen: set[Texts] = set()
        while len(rows) < size:
            label = len(rows) % len(self.meanings)
            texts = self.skill(rng, split, rng.choice(self.meanings[label]))
            if texts in seen:
                continue
            seen.add(texts)
            row: Row = {f"sentence{i}": text for i, text in enumerate(texts, 1)}
            rows.append(row | {"label": float(label) if self.graded else label})
        rng.shuffle(rows)
        return rows
