"""The frozen T5 and what goes into it: target prompts, batches of rows, engines, one seam."""

from __future__ import annotations

from compt_fast.models.api import Trunk, open_trunk
from compt_fast.models.batch import Batch, TargetPrompts, make_batch

__all__ = [
    "Batch",
    "TargetPrompts",
    "Trunk",
    "make_batch",
    "open_trunk",
]
