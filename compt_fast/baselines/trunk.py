"""The engine `reference` over a model that a baseline has changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.baselines.methods import Tuned
from compt_fast.models.batch import Batch, TargetPrompts
from compt_fast.models.engines.reference import ReferenceTrunk
from compt_fast.models.padded import Read


@dataclass(frozen=True)
class _Rows(Read):
    """Rows that know their tasks (B,) int64."""

    tasks: Tensor

    def select(self, rows: Tensor) -> _Rows:
        return _Rows(self.states[rows], self.mask[rows], self.tasks[rows])


class TunedTrunk(ReferenceTrunk):
    """What a baseline has made of the trunk `of`, whose model is `tuned`'s own by now: the slots of a batch are the
    tasks of the run, and its weights may take gradients.

    All weights are kept in fp32. Over a trunk in bf16 its products are in bf16 (torch's autocast), and what trains is
    rounded nowhere else.
    """

    def __init__(self, of: ReferenceTrunk, tuned: Tuned) -> None:
        super().__init__(tuned.model, of.tokenizer, of.name, of.prompt_position)
        self.tuned = tuned
        self._mixed = of.dtype == torch.bfloat16
        self._told: _Rows | None = None
        tuned.float()

    def _text(self, batch: Batch, input_update: Tensor | None) -> Tensor:
        """As every engine's, with the embeddings that may be trained."""
        text = F.embedding(batch.input_ids.to(self.device), self.model.get_input_embeddings().weight)
        return text if input_update is None else text + input_update

    def _read(self, prompts: TargetPrompts, batch: Batch, input_update: Tensor | None) -> _Rows:
        tasks = batch.slots.to(self.device)
        with self._precision():
            self.tuned.before_encoder(tasks)
            found = super()._read(prompts, batch, input_update)
        return _Rows(found.states, found.mask, tasks)

    def _decode(
        self, read: Read, inputs: Tensor, cache: Any = None, use_cache: bool = False, hidden: bool = False
    ) -> Any:
        assert isinstance(read, _Rows)
        with self._precision():
            if read is not self._told:  # once for all tokens of a row
                self.tuned.before_decoder(read.tasks, read.states, read.mask)
                self._told = read
            if cache is None:
                cache = self.tuned.cache(len(inputs))
            return super()._decode(read, inputs, cache, use_cache, hidden)

    @contextmanager
    def _precision(self) -> Iterator[None]:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._mixed):
            yield
