"""The frozen T5 and what goes into it: target prompts, batches of rows, engines, one seam."""

from __future__ import annotations

from compt_fast.trunk.batch import Batch, TargetPrompts, make_batch
from compt_fast.trunk.seam import Trunk, open_trunk

__all__ = [
    "Batch",
    "TargetPrompts",
    "Trunk",
    "make_batch",
    "open_trunk",
]
