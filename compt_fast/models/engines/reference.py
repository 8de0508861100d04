"""transformers' T5, or another of its encoder-decoders, in PyTorch, padded.

It is the measure of every other engine, so it leaves all arithmetic to transformers and only lays out its input,
with the prompts inside the input embeddings of the encoder. The decoder writes the label behind its start token, and
behind the token that a checkpoint forces to come first, as BART's <s>.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from compt_fast.models.batch import Batch, TargetPrompts
from compt_fast.models.families import ENCODER_DECODERS
from compt_fast.models.padded import PaddedTrunk, Read, Written


class ReferenceTrunk(PaddedTrunk):
    """An encoder-decoder of transformers as it is."""

    families = ENCODER_DECODERS
    padding_side = "right"
    compares_hidden = True

    @cached_property
    def start_ids(self) -> list[int]:
        """What the decoder reads before the label: its start token, and that which has to come first, if any."""
        forced = getattr(self.model.generation_config, "forced_bos_token_id", None)
        return [self.start_id] if forced is None else [self.start_id, int(forced)]

    @property
    def forced_tokens(self) -> int:
        """The tokens that transformers' own `generate` writes beside an answer, as this checkpoint tells it to."""
        config = self.model.generation_config
        return sum(getattr(config, f"forced_{name}_token_id", None) is not None for name in ("bos", "eos"))

    def _embeds(self) -> Any:
        return self.model.get_encoder().get_input_embeddings()

    def _read(self, prompts: TargetPrompts, batch: Batch, input_update: Tensor | None) -> Read:
        inputs = self._assemble(prompts, batch, input_update)
        states = self.model.get_encoder()(inputs_embeds=inputs.states, attention_mask=inputs.mask).last_hidden_state
        return Read(states, inputs.mask)

    def _write(self, read: Read, labels: Tensor, hidden: bool) -> Written:
        # The decoder reads the start tokens and then every label token but the last.
        inputs = torch.cat([self._start(len(labels)), labels[:, :-1]], 1)
        output, first = self._decode(read, inputs, hidden=hidden), len(self.start_ids) - 1
        states = output.decoder_hidden_states[-1][:, first:] if hidden else None
        return Written(output.logits[:, first:], states)

    def _begin(self, read: Read) -> tuple[Tensor, Any]:
        output = self._decode(read, self._start(len(read.states)), use_cache=True)
        return output.logits[:, -1:], output.past_key_values

    def _go_on(self, read: Read, cache: Any, ids: Tensor, written: int) -> Tensor:
        logits: Tensor = self._decode(read, ids, cache, use_cache=True).logits
        return logits

    def _plain(self, row: list[int], written: list[int]) -> Tensor:
        ids, decoder_ids = (torch.tensor([each], device=self.device) for each in (row, self.start_ids + written))
        logits: Tensor = self.model(input_ids=ids, decoder_input_ids=decoder_ids).logits
        return logits[0, len(self.start_ids) - 1 :].float()

    def _start(self, rows: int) -> Tensor:
        return torch.tensor([self.start_ids], device=self.device).expand(rows, -1)

    def _decode(
        self, read: Read, inputs: Tensor, cache: Any = None, use_cache: bool = False, hidden: bool = False
    ) -> Any:
        """transformers' output for decoder input ids (B, L) behind what `cache` already holds."""
        from transformers.modeling_outputs import BaseModelOutput

        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=read.states),
            attention_mask=read.mask,
            decoder_input_ids=inputs,
            past_key_values=cache,
            use_cache=use_cache,
            output_hidden_states=hidden,
        )

    def _cached_elements(self) -> int:
        config = self.config
        inner = getattr(config, "d_kv", None)  # T5's, which may be any number
        return config.num_decoder_layers * config.num_heads * inner if inner else super()._cached_elements()


ENTRY = ReferenceTrunk
