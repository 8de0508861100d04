"""What baselines train, a way a file: which weights of the trunk, or which ones beside them.

To add a way, add a file `new_way.py` with `ENTRY = NewWay`, a class of `Tuned`, and a line in
`compt_fast.config.baselines.BASELINES` with `weights="new-way"`. Training, scoring, checkpoints and results follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from safetensors.torch import save_file
from torch import Tensor, nn

from compt_fast.utils.registry import Registry

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ORDER = ("finetune", "bitfit", "adapter", "lora", "ia3", "prefix", "p-tuning", "hyperformer", "hyperdecoder")
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Sizes:
    """What of a run's settings decides the weights: tasks T, `length` tokens of a prompt or prefix, and the inner width
    of what is added.
    """

    tasks: int
    length: int
    bottleneck: int


class Tuned(nn.Module):
    """A T5 of transformers, and what a baseline trains in it or beside it: the parameters that require a gradient.

    A subclass changes the model as it is made; the model comes frozen, and belongs to it. New weights are drawn by
    torch's generator, whose seed is the run's. What depends on the row is told by `before_encoder` and
    `before_decoder`. The model stays in evaluation mode: no dropout.
    """

    prompted: ClassVar[bool] = False
    """Whether `prompt` makes tokens that stand in the encoder's input."""
    kept: ClassVar[bool] = True
    """Whether its weights are worth a file in the run folder."""

    def __init__(self, model: PreTrainedModel, sizes: Sizes) -> None:
        super().__init__()
        self.model: Any = model
        self.sizes = sizes

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that train, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def prompt(self) -> Tensor | None:
        """The prompt tokens (L, d) of all rows, where it is `prompted`."""
        return None

    def cache(self, rows: int) -> Any:
        """What the decoder has read of so many rows before their first token: a cache of transformers, or None."""
        return None

    def before_encoder(self, tasks: Tensor) -> None:
        """Rows of these `tasks` (B,) int64 go through the encoder next."""

    def before_decoder(self, tasks: Tensor, states: Tensor, mask: Tensor) -> None:
        """Rows of these `tasks` (B,), of which the encoder made `states` (B, L, d) where `mask` (B, L) is 1, go through
        the decoder next.
        """

    def save(self, folder: Path) -> None:
        """Write what was trained into a folder."""
        save_file({name: p.detach().cpu().contiguous() for name, p in self.trained().items()}, folder / WEIGHTS)


TUNINGS: Registry[Callable[[Any, Sizes], Tuned]] = Registry(__name__)
