"""What a job prints before its first step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compt_fast.config.flags import read_flags
from compt_fast.ops import compose as fused
from compt_fast.runs.summary import composing
from compt_fast.training.plan import plan_runs


def test_it_says_what_composes_the_prompts_of_which_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = read_flags({"method": "spp,pt-joint", "encoder": "mlp,lstm", "seeds": "0,1", "steps": "1"}, None)
    runs = plan_runs(flags, tasks=["a", "b"], d_model=8)
    trainer: Any = SimpleNamespace(runs=runs, trunk=SimpleNamespace(device=torch.device("cpu")))
    (line,) = composing(trainer)
    assert line.startswith("prompts of spp, pt-joint composed by the formula: ") and "CUDA" in line
    monkeypatch.setattr(fused, "unavailable", lambda device: "")
    formula, kernels = sorted(composing(trainer))
    assert kernels.startswith("prompts of spp, pt-joint composed by the kernels: ")
    assert formula.startswith("prompts of spp, pt-joint composed by the formula: ") and "lstm" in formula
