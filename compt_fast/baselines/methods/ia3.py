"""(IA)^3 (arXiv 2205.05638), PEFT's: keys, values and the inner feed-forward activations times a learned vector."""

from __future__ import annotations

from typing import Any

from compt_fast.baselines.methods import Sizes
from compt_fast.baselines.peft import TASK_TYPE, OfPeft


class IA3(OfPeft):
    """The vectors start at 1."""

    def __init__(self, model: Any, sizes: Sizes) -> None:
        super().__init__(model, sizes, lambda peft: peft.IA3Config(task_type=TASK_TYPE))


ENTRY = IA3
