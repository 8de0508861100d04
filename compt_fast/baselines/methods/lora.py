"""LoRA (arXiv 2106.09685), PEFT's: `W x + B A x` for queries and values of all attentions, of rank r.

The scale alpha / r is 1, as PEFT's defaults make it at r = 8.
"""

from __future__ import annotations

from typing import Any

from compt_fast.baselines.methods import Sizes
from compt_fast.baselines.peft import TASK_TYPE, OfPeft


class LoRA(OfPeft):
    """A starts as PEFT draws it, B at 0."""

    def __init__(self, model: Any, sizes: Sizes) -> None:
        rank = sizes.bottleneck
        super().__init__(model, sizes, lambda peft: peft.LoraConfig(task_type=TASK_TYPE, r=rank, lora_alpha=rank))


ENTRY = LoRA
