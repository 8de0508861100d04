"""A predictor of the embedded tasks whose prompts nobody trained, and rows for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from compt_fast.mini import __file__ as mini
from compt_fast.models.api import open_trunk
from compt_fast.prediction.predictor import Answer, Predictor
from compt_fast.prediction.prompts import USUAL_TEXT, TaskPrompt
from compt_fast.prompts.artifact import RunPrompts, TrunkId
from compt_fast.prompts.shape import PromptShape
from compt_fast.tasks.table import MAKERS, TASKS

EMBEDDED = tuple(MAKERS)
MINI = Path(mini).parent / "weights"
Row = dict[str, Any]


def made_predictor(
    dtype: torch.dtype = torch.float32,
    *,
    engine: str = "fast",
    trunk: Path = MINI,
    names: Sequence[str] = EMBEDDED,
    label_mode: str = "natural",
) -> Predictor:
    """Prompts of drawn tokens, 10 a task: their answers are labels, other words and nothing at all."""
    opened = open_trunk(engine, str(trunk), dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, len(opened.tokenizer) - 100, (len(names), 10), generator=generator)
    shape = PromptShape("pt", len(names), 0, True, 10, opened.d_model, encoder="none")
    prompts = RunPrompts(shape, {"targets": opened.embedding.float()[tokens]})
    text = replace(USUAL_TEXT, label_mode=label_mode)
    own = {
        name: TaskPrompt(TASKS[name], prompts, index, text, TrunkId(trunk.name), "made")
        for index, name in enumerate(names)
    }
    return Predictor(opened, own)


def mini_rows(count: int, names: Sequence[str] = EMBEDDED) -> list[Row]:
    """As many rows of each task, mixed."""
    drawn = [[row | {"task": name} for row in MAKERS[name].draw(name, "validation", count, seed=3)] for name in names]
    return [row for together in zip(*drawn, strict=True) for row in together]


def as_lines(predictor: Predictor, rows: Sequence[Row]) -> str:
    """Rows as the examples that answer by an export read them."""
    columns = {name: [column for column, _ in task.fields] for name, task in predictor.tasks.items()}
    return "".join("\t".join([row["task"], *(row[name] for name in columns[row["task"]])]) + "\n" for row in rows)


def as_line(answer: Answer) -> str:
    """What those examples print of an answer with scores; of a task of scores the label is a number."""
    assert answer.scores is not None
    label = answer.label
    if not isinstance(label, str):
        label = answer.text if answer.text in answer.scores else max(answer.scores, key=answer.scores.__getitem__)
    return f"{label}\t{answer.text}\t{answer.scores[label]:.4f}"
