"""The reference engine: transformers' own T5, padded, with the prompts inside its input embeddings.

It is the measure of every other engine, so it leaves all arithmetic to transformers and only lays
out its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.models.base import BaseTrunk
from compt_fast.models.batch import Batch, TargetPrompts, offsets_of, spread
from compt_fast.models.checkpoint import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHUNK_ELEMENTS = 1 << 26  # bound of the largest tensor while ranking (ours): 256 MiB in fp32


@dataclass(frozen=True)
class _Encoded:
    """The encoder's output (B, L, d), and its mask (B, L) int64: 0 where there is padding."""

    states: Tensor
    mask: Tensor

    def select(self, rows: Tensor) -> _Encoded:
        return _Encoded(self.states[rows], self.mask[rows])


class ReferenceTrunk(BaseTrunk):
    """transformers' T5 as it is."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        prompt_position: str,
    ) -> None:
        super().__init__(model, tokenizer, name, prompt_position)
        self.model = model

    @property
    def embedding(self) -> Tensor:
        return self.model.get_input_embeddings().weight.detach()

    def row_losses(self, prompts: TargetPrompts, batch: Batch) -> Tensor:
        self._check_targets(batch)
        encoded = self._encode(prompts, batch)
        ids = batch.target_ids.to(self.device)
        targets = _pad(ids, batch.target_offsets)
        # The decoder reads the start token and then every target token but the last.
        inputs = F.pad(targets[:, :-1], (1, 0), value=self.start_id)
        logits = self._decode(encoded, inputs).logits
        return _cross_entropy(logits, ids, batch.target_offsets)

    @torch.no_grad()
    def generate(self, prompts: TargetPrompts, batch: Batch, max_new_tokens: int) -> list[list[int]]:
        encoded = self._encode(prompts, batch)
        last = torch.full((batch.rows, 1), self.start_id, device=self.device)
        ended = torch.zeros(batch.rows, dtype=torch.bool, device=self.device)
        cache, columns = None, []
        for _ in range(max_new_tokens):
            output = self._decode(encoded, last, cache, use_cache=True)
            cache = output.past_key_values
            last = output.logits[:, -1:].float().argmax(-1)
            columns.append(last)
            ended |= last[:, 0] == self.end_id
            if bool(ended.all()):
                break
        answers = torch.cat(columns, 1).tolist() if columns else [[] for _ in range(batch.rows)]
        return [answer[: answer.index(self.end_id)] if self.end_id in answer else answer for answer in answers]

    @torch.no_grad()
    def label_scores(
        self, prompts: TargetPrompts, batch: Batch, candidates: Sequence[Sequence[Sequence[int]]]
    ) -> list[Tensor]:
        self._check_candidates(batch, candidates)
        counts = [len(row) for row in candidates]
        encoded = self._encode(prompts, batch)
        labels = list(chain.from_iterable(candidates))
        rows = torch.repeat_interleave(torch.arange(batch.rows), torch.tensor(counts))
        longest = max(len(label) for label in labels)
        size = self._pairs_at_once(encoded.states.shape[1], longest)
        chunks = [
            self._score_pairs(encoded, rows[first : first + size], labels[first : first + size])
            for first in range(0, len(labels), size)
        ]
        return list(torch.cat(chunks).cpu().split(counts))

    def fingerprint(self) -> str:
        return fingerprint(self.model)

    def _encode(self, prompts: TargetPrompts, batch: Batch) -> _Encoded:
        self._check_sources(prompts, batch)
        inputs, mask = self._assemble(prompts, batch)
        states = self.model.get_encoder()(inputs_embeds=inputs, attention_mask=mask).last_hidden_state
        return _Encoded(states, mask)

    def _assemble(self, prompts: TargetPrompts, batch: Batch) -> tuple[Tensor, Tensor]:
        """Prompt and text side by side, then padding: (B, L, d) in the trunk's dtype; its mask."""
        text_lengths, prompt_lengths = batch.source_lengths, prompts.lengths[batch.slots]
        lengths = text_lengths + prompt_lengths
        width = int(lengths.max())
        starts = torch.arange(batch.rows) * width
        prepend = self.prompt_position == "prepend"
        text_at = spread(starts + prompt_lengths if prepend else starts, text_lengths)
        prompt_at = spread(starts if prepend else starts + text_lengths, prompt_lengths)
        prompt_from = spread(prompts.offsets[batch.slots], prompt_lengths)
        mask = torch.arange(width)[None] < lengths[:, None]

        text = F.embedding(batch.source_ids.to(self.device), self.embedding)
        # Gathered before it is cast: the rows' gradients are summed in the prompt's own dtype.
        prompt = F.embedding(prompt_from.to(self.device), prompts.flat).to(self.dtype)
        inputs = torch.zeros(batch.rows * width, self.d_model, dtype=self.dtype, device=self.device)
        inputs = inputs.index_copy(0, text_at.to(self.device), text)
        inputs = inputs.index_copy(0, prompt_at.to(self.device), prompt)
        return inputs.view(batch.rows, width, self.d_model), mask.to(self.device, torch.int64)

    def _decode(self, encoded: _Encoded, inputs: Tensor, cache: Any = None, use_cache: bool = False) -> Any:
        """transformers' output for decoder input ids (B, L) behind what `cache` already holds."""
        return self.model(
            encoder_outputs=(encoded.states,),
            attention_mask=encoded.mask,
            decoder_input_ids=inputs,
            past_key_values=cache,
            use_cache=use_cache,
        )

    def _pairs_at_once(self, width: int, longest: int) -> int:
        """How many candidates keep logits and cross-attention caches within `CHUNK_ELEMENTS`."""
        config = self.model.config
        cache = 2 * config.num_decoder_layers * config.num_heads * config.d_kv * width
        logits = longest * len(self.embedding)
        return max(1, CHUNK_ELEMENTS // max(cache, logits))

    def _score_pairs(self, encoded: _Encoded, rows: Tensor, labels: list[Sequence[int]]) -> Tensor:
        """The log-likelihood of label i after row `rows[i]`: (n,) fp32.

        The start token is decoded once a row. It scores every first label token, and leaves the
        row's keys and values behind, which the row's candidates then share.
        """
        offsets = offsets_of([len(label) for label in labels])
        ids = torch.tensor(list(chain.from_iterable(labels)), device=self.device)
        targets = _pad(ids, offsets)
        own, place = torch.unique_consecutive(rows, return_inverse=True)
        own, place, rows = own.to(self.device), place.to(self.device), rows.to(self.device)
        start = torch.full((len(own), 1), self.start_id, device=self.device)
        output = self._decode(encoded.select(own), start, use_cache=True)
        logits = output.logits[place]
        if targets.shape[1] > 1:
            cache = output.past_key_values
            cache.batch_select_indices(place)
            rest = self._decode(encoded.select(rows), targets[:, :-1], cache, use_cache=True)
            logits = torch.cat([logits, rest.logits], 1)
        return -_cross_entropy(logits, ids, offsets)


def _grid(offsets: Tensor) -> tuple[Tensor, int]:
    """Where each id stands once ragged rows are padded to (n, width) and flattened; and width."""
    lengths = offsets.diff()
    width = int(lengths.max())
    return spread(torch.arange(len(lengths)) * width, lengths), width


def _pad(ids: Tensor, offsets: Tensor) -> Tensor:
    """Flat `ids` as rows (n, longest), padded behind with 0."""
    at, width = _grid(offsets)
    rows = ids.new_zeros((len(offsets) - 1) * width)
    return rows.index_copy(0, at.to(ids.device), ids).view(-1, width)


def _cross_entropy(logits: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
    """The cross-entropy of each row of flat `ids` under `logits` (n, longest, V), summed over its
    tokens: (n,) fp32, or fp64 where the logits are.
    """
    at, width = _grid(offsets)
    at = at.to(ids.device)
    taken = logits.flatten(0, 1)[at]
    losses = F.cross_entropy(taken.to(torch.promote_types(taken.dtype, torch.float32)), ids, reduction="none")
    # Placed and summed by row: adding by index would not be deterministic on a GPU.
    return losses.new_zeros((len(offsets) - 1) * width).index_copy(0, at, losses).view(-1, width).sum(1)
