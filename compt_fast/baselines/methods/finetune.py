"""Full fine-tuning: every weight of the trunk trains."""

from __future__ import annotations

from typing import Any, ClassVar

from compt_fast.baselines.methods import Sizes, Tuned


class Finetuned(Tuned):
    """All of it, embeddings included. Its weights are as large as the trunk, and are not kept."""

    kept: ClassVar[bool] = False

    def __init__(self, model: Any, sizes: Sizes) -> None:
        super().__init__(model.requires_grad_(True), sizes)


ENTRY = Finetuned
