"""PEFT's own methods over a trunk's model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from compt_fast.baselines.methods import Sizes, Tuned
from compt_fast.utils.errors import InputError

TASK_TYPE = "SEQ_2_SEQ_LM"


class OfPeft(Tuned):
    """A model as PEFT makes it of a configuration; what is saved is an adapter in PEFT's format."""

    def __init__(self, model: Any, sizes: Sizes, config: Callable[[Any], Any]) -> None:
        """`config` makes the configuration with the module `peft`; raises `InputError` where that is missing."""
        super().__init__(model, sizes)
        if find_spec("peft") is None:
            raise InputError("lora, ia3, prefix and p-tuning are PEFT's, which is missing here: pip install peft")
        import peft

        with warnings.catch_warnings():
            # PEFT asks the model for something that transformers calls otherwise by now.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            self.peft = peft.get_peft_model(model, config(peft))

    def save(self, folder: Path) -> None:
        self.peft.save_pretrained(folder)
