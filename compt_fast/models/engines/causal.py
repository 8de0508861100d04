"""transformers' causal language models (GPT-2, Llama, Qwen, Gemma ...) in PyTorch, padded.

Prompt and text are what comes before, and the label continues them: its loss is that of a language model, on the
label's tokens alone. Padding stands before the prompts, so that in every row the label begins at one place, and a token
is told its position in its own row.
"""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.models.batch import Batch, TargetPrompts
from compt_fast.models.families import CAUSAL
from compt_fast.models.padded import PaddedTrunk, Read, Written
from compt_fast.utils.errors import InputError

ANSWER = 32  # places of a trunk's input that are left to what it writes (ours)


class CausalTrunk(PaddedTrunk):
    """A causal language model of transformers as it is."""

    families = CAUSAL
    padding_side = "left"

    @property
    def max_input_length(self) -> int:
        return super().max_input_length - ANSWER

    @cached_property
    def _takes(self) -> frozenset[str]:
        """The arguments of the model's own forward."""
        return frozenset(inspect.signature(self.model.forward).parameters)

    def _embeds(self) -> Any:
        return self.model.get_input_embeddings()

    def _read(self, prompts: TargetPrompts, batch: Batch, input_update: Tensor | None) -> Read:
        return self._assemble(prompts, batch, input_update)

    def _write(self, read: Read, labels: Tensor, hidden: bool) -> Written:
        before = F.embedding(labels[:, :-1], self.embedding)
        inputs = torch.cat([read.states, before], 1)
        output = self._forward(read.mask, labels.shape[1] - 1, labels.shape[1], inputs_embeds=inputs)
        return Written(output.logits[:, -labels.shape[1] :])

    def _begin(self, read: Read) -> tuple[Tensor, Any]:
        output = self._forward(read.mask, 0, 1, inputs_embeds=read.states, use_cache=True)
        return output.logits[:, -1:], output.past_key_values

    def _go_on(self, read: Read, cache: Any, ids: Tensor, written: int) -> Tensor:
        tokens = ids.shape[1]
        output = self._forward(
            read.mask, written + tokens, tokens, input_ids=ids, past_key_values=cache, use_cache=True
        )
        logits: Tensor = output.logits
        return logits

    def _plain(self, row: list[int], written: list[int]) -> Tensor:
        logits: Tensor = self.model(input_ids=torch.tensor([row + written], device=self.device)).logits
        return logits[0, len(row) - 1 :].float()

    def _forward(self, mask: Tensor, written: int, wanted: int, **inputs: Any) -> Any:
        """transformers' output for the last places of rows that go on by `written` tokens behind those of `mask`
        (B, L), with the logits of at least the `wanted` last ones.
        """
        # Padding behind a short label is read as if it were text: nothing before it looks at it.
        whole = F.pad(mask, (0, written), value=1)
        if whole.shape[1] > super().max_input_length:
            raise InputError(
                f"{self.name}: prompt, text and label take {whole.shape[1]} tokens, and the trunk reads"
                f" {super().max_input_length}; lower --max-source-length or --prompt-length"
            )
        given = next(inputs[name] for name in ("inputs_embeds", "input_ids") if name in inputs)
        positions = (whole.cumsum(1) - 1).clamp(min=0)[:, -given.shape[1] :]
        more = {"position_ids": positions, "logits_to_keep": wanted}
        known = {name: value for name, value in more.items() if name in self._takes}
        return self.model(attention_mask=whole, use_cache=inputs.pop("use_cache", False), **inputs, **known)


ENTRY = CausalTrunk
