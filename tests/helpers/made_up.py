"""Entries that no file declares, as a newcomer's would be: a gate, a gate of each row and a normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from compt_fast.prompts.entry import Parameter, Rows
from compt_fast.prompts.gates import GATES, Gate
from compt_fast.prompts.normalisations import NORMALISATIONS, Normalisation
from compt_fast.prompts.shape import PromptShape
from compt_fast.training.plan import Run


def constants(shape: PromptShape) -> dict[str, Parameter]:
    return {"share": Parameter((shape.tasks,), (0.75, 0.75))}


def shares(params: Mapping[str, Tensor], shape: PromptShape) -> Tensor:
    """Alpha is a number a task, and beta what is left of 2."""
    return torch.stack([params["share"], 2 - params["share"]], dim=-1)


def directions(shape: PromptShape) -> dict[str, Parameter]:
    return {"direction": Parameter((shape.tasks, shape.d_model), (-1.0, 1.0), "private")}


def row_shares(params: Mapping[str, Tensor], shape: PromptShape, rows: Rows) -> Tensor:
    """Alpha is the tanh of a product with the row's mean embedding, and beta is 1."""
    alpha = torch.tanh((params["direction"][rows.runs, rows.tasks] * rows.texts.means).sum(-1))
    return torch.stack([alpha, torch.ones_like(alpha)], dim=-1)


def squares(logits: Tensor) -> Tensor:
    """Weights in proportion to the squares of 1 + z."""
    raised = (1 + logits) ** 2
    return raised / raised.sum(-1, keepdim=True)


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the gates `made-up` and `made-up-rows` and the normalisation `made-up` be known for a test's time."""
    monkeypatch.setitem(GATES, "made-up", Gate(constants, shares))
    monkeypatch.setitem(GATES, "made-up-rows", Gate(directions, row_shares, per_row=True))
    monkeypatch.setitem(NORMALISATIONS, "made-up", Normalisation(squares))


def changed(run: Run, **settings: str) -> Run:
    """A planned run with entries that no flag knows."""
    return replace(run, config=replace(run.config, **settings), shape=replace(run.shape, **settings))
