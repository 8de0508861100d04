"""Engines, what opens a checkpoint as a trunk, one a file; `compt_fast.models.api` says what a trunk has to be.

To add an engine, add a file `new_engine.py` with `ENTRY = NewTrunk`, a class that `Engine` describes: `--engine
new-engine` takes it, and "auto" asks it for the checkpoints that the engines before it do not support. The first line
of the file's docstring is what `info` says of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from compt_fast.utils.registry import Registry

if TYPE_CHECKING:
    import torch

    from compt_fast.models.api import Trunk

ORDER = ("fast", "reference", "causal")


class Engine(Protocol):
    """A class of trunks, by way of how one is opened."""

    def load(self, name_or_dir: str, *, dtype: torch.dtype, device: torch.device | str, prompt_position: str) -> Trunk:
        """The trunk in the folder `name_or_dir`, or of that name on the hub.

        Raises `checkpoint.UnsupportedCheckpointError` for one that another engine may run, and InputError for one
        that is missing or broken, another dtype than fp32 or bf16, a device that is not there, and an unknown position.
        """


ENGINES: Registry[Engine] = Registry(__name__)
