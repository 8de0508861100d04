"""Rows of the world in the shape of a hub data set: how an embedded task draws them from a skill.

Which tasks there are, and of which skill each is made, stands in the table of tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from compt_fast.mini.skills import Skill, Texts

Row = dict[str, str | int | float]
SPLITS = ("train", "validation")
GROUP = "question"  # the column of rows that share a question: its number in the draw


@dataclass(frozen=True)
class Maker:
    """How a task's rows are made: label `i` draws from the example labels `meanings[i]` of a skill, and is written as
    a number where labels are `graded`. With `each`, the labels in turn have the same random numbers: the skill draws
    what its rows share before it looks at the label. `labels` are label words of the embedded task's own.
    """

    skill: Skill
    meanings: tuple[tuple[int, ...], ...] = ((0,), (1,))
    graded: bool = False
    each: bool = False
    labels: tuple[str, ...] = ()

    def draw(self, task: str, split: str, size: int, seed: int = 0) -> list[Row]:
        """Draw `size` class-balanced rows of the split `train` or `validation` of the task of that name.

        The same arguments give the same rows. No sentence occurs in both splits, whatever the sizes and seeds. A row
        holds `sentence1`, for tasks of more sentences `sentence2` and so on, and `label`: a class number, or a float
        where labels are graded; of `each`, `question` too. Rows of one draw differ from each other.
        """
        if split not in SPLITS:
            raise ValueError(f"split must be {' or '.join(map(repr, SPLITS))}, not {split!r}")
        rng = Random(f"{task} {split} {seed}")
        rows: list[Row] = []
        seen: set[Texts] = set()
        while len(rows) < size:
            labels = range(len(self.meanings)) if self.each else [len(rows) % len(self.meanings)]
            shared = rng.getrandbits(64) if self.each else None
            texts = [self._texts(rng if shared is None else Random(shared), split, label) for label in labels]
            if not seen.isdisjoint(texts):
                continue
            group: Row = {GROUP: len(rows) // len(self.meanings)} if self.each else {}
            rows += [self._row(*drawn) | group for drawn in zip(labels, texts, strict=True)][: size - len(rows)]
            seen.update(texts)
        rng.shuffle(rows)
        return rows

    def _texts(self, rng: Random, split: str, label: int) -> Texts:
        return self.skill(rng, split, rng.choice(self.meanings[label]))

    def _row(self, label: int, texts: Texts) -> Row:
        row: Row = {f"sentence{i}": text for i, text in enumerate(texts, 1)}
        return row | {"label": float(label) if self.graded else label}
