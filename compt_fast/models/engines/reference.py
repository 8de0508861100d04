"""transformers' T5 in PyTorch, padded.

It is the measure of every other engine, so it leaves all arithmetic to transformers and only lays out its input,
with the prompts inside the input embeddings.
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
from compt_fast.models.batch import Batch, TargetPrompts
from compt_fast.models.checkpoint import fingerprint
from compt_fast.models.distillation import Teachers, divergences
from compt_fast.ops.varlen import cu_seqlens_of, ranges

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

    compares_hidden = True

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

    def row_losses(
        self,
        prompts: TargetPrompts,
        batch: Batch,
        input_update: Tensor | None = None,
        teachers: Teachers | None = None,
    ) -> Tensor:
        self._check_labels(batch)
        self._check_teachers(prompts, batch, teachers)
        encoded = self._encode(prompts, batch, input_update)
        ids = batch.label_ids.to(self.device)
        read = self._read(encoded, batch, hidden=teachers is not None)
        losses = _cross_entropy(read.logits, ids, batch.label_cu_seqlens)
        if teachers is None:
            return losses
        own = teachers.batch(batch)
        with torch.no_grad():
            other = self._encode(teachers.prompts, own, None)
            taught = self._read(other, own, hidden=True)
        rows = teachers.rows.to(self.device)
        more = _taught(encoded.select(rows), read, rows, other, taught, own.label_cu_seqlens, teachers)
        return losses.index_add(0, rows, more)

    def _read(self, encoded: _Encoded, batch: Batch, hidden: bool) -> Any:
        """transformers' output where the labels of a batch stand."""
        labels = _pad(batch.label_ids.to(self.device), batch.label_cu_seqlens)
        # The decoder reads the start token and then every label token but the last.
        inputs = F.pad(labels[:, :-1], (1, 0), value=self.start_id)
        return self._decode(encoded, inputs, hidden=hidden)

    @torch.no_grad()
    def generate(
        self, prompts: TargetPrompts, batch: Batch, max_new_tokens: int, input_update: Tensor | None = None
    ) -> list[list[int]]:
        encoded = self._encode(prompts, batch, input_update)
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
        self,
        prompts: TargetPrompts,
        batch: Batch,
        candidates: Sequence[Sequence[Sequence[int]]],
        input_update: Tensor | None = None,
    ) -> list[Tensor]:
        self._check_candidates(batch, candidates)
        counts = [len(row) for row in candidates]
        encoded = self._encode(prompts, batch, input_update)
        labels = list(chain.from_iterable(candidates))
        rows = torch.repeat_interleave(torch.arange(batch.rows), torch.tensor(counts))
        max_label = max(len(label) for label in labels)
        size = self._pairs_at_once(encoded.states.shape[1], max_label)
        chunks = [
            self._score_pairs(encoded, rows[first : first + size], labels[first : first + size])
            for first in range(0, len(labels), size)
        ]
        return list(torch.cat(chunks).cpu().split(counts))

    def fingerprint(self) -> str:
        return fingerprint(self.model)

    def _encode(self, prompts: TargetPrompts, batch: Batch, input_update: Tensor | None) -> _Encoded:
        self._check_inputs(prompts, batch, input_update)
        inputs, mask = self._assemble(prompts, batch, input_update)
        states = self.model.get_encoder()(inputs_embeds=inputs, attention_mask=mask).last_hidden_state
        return _Encoded(states, mask)

    def _assemble(self, prompts: TargetPrompts, batch: Batch, input_update: Tensor | None) -> tuple[Tensor, Tensor]:
        """Prompt and text side by side, then padding: (B, L, d) in the trunk's dtype; its mask."""
        at = batch.placement(prompts.cu_seqlens, self.prepend).padded()
        width = int(at.lengths.max())
        mask = torch.arange(width)[None] < at.lengths[:, None]
        text = self._text(batch, input_update)
        # Gathered before it is cast: the rows' gradients are summed in the prompt's own dtype.
        prompt = F.embedding(at.prompt_rows.to(self.device), prompts.flat).to(self.dtype)
        inputs = torch.zeros(batch.rows * width, self.d_model, dtype=self.dtype, device=self.device)
        inputs = inputs.index_copy(0, at.text_places.to(self.device), text)
        inputs = inputs.index_copy(0, at.prompt_places.to(self.device), prompt)
        return inputs.view(batch.rows, width, self.d_model), mask.to(self.device, torch.int64)

    def _decode(
        self, encoded: _Encoded, inputs: Tensor, cache: Any = None, use_cache: bool = False, hidden: bool = False
    ) -> Any:
        """transformers' output for decoder input ids (B, L) behind what `cache` already holds."""
        return self.model(
            encoder_outputs=(encoded.states,),
            attention_mask=encoded.mask,
            decoder_input_ids=inputs,
            past_key_values=cache,
            use_cache=use_cache,
            output_hidden_states=hidden,
        )

    def _pairs_at_once(self, width: int, max_label: int) -> int:
        """How many candidates keep logits and cross-attention caches within `CHUNK_ELEMENTS`."""
        config = self.model.config
        cache = 2 * config.num_decoder_layers * config.num_heads * config.d_kv * width
        logits = max_label * len(self.embedding)
        return max(1, CHUNK_ELEMENTS // max(cache, logits))

    def _score_pairs(self, encoded: _Encoded, rows: Tensor, labels: list[Sequence[int]]) -> Tensor:
        """The log-likelihood of label i after row `rows[i]`: (n,) fp32.

        The start token is decoded once a row. It scores every first label token, and leaves the
        row's keys and values behind, which the row's candidates then share.
        """
        cu_seqlens = cu_seqlens_of([len(label) for label in labels])
        ids = torch.tensor(list(chain.from_iterable(labels)), device=self.device)
        padded = _pad(ids, cu_seqlens)
        distinct, place = torch.unique_consecutive(rows, return_inverse=True)
        distinct, place, rows = distinct.to(self.device), place.to(self.device), rows.to(self.device)
        start = torch.full((len(distinct), 1), self.start_id, device=self.device)
        output = self._decode(encoded.select(distinct), start, use_cache=True)
        logits = output.logits[place]
        if padded.shape[1] > 1:
            cache = output.past_key_values
            cache.batch_select_indices(place)
            rest = self._decode(encoded.select(rows), padded[:, :-1], cache, use_cache=True)
            logits = torch.cat([logits, rest.logits], 1)
        return -_cross_entropy(logits, ids, cu_seqlens)


def _grid(cu_seqlens: Tensor) -> tuple[Tensor, int]:
    """Where each id stands once ragged rows are padded to (n, width) and flattened; and width."""
    lengths = cu_seqlens.diff()
    width = int(lengths.max())
    return ranges(torch.arange(len(lengths)) * width, lengths), width


def _pad(ids: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Flat `ids` as rows (n, width), padded behind with 0 to the longest."""
    at, width = _grid(cu_seqlens)
    rows = ids.new_zeros((len(cu_seqlens) - 1) * width)
    return rows.index_copy(0, at.to(ids.device), ids).view(-1, width)


def _cross_entropy(logits: Tensor, ids: Tensor, cu_seqlens: Tensor) -> Tensor:
    """The cross-entropy of each row of flat `ids` under `logits` (n, width, V), summed over its
    tokens: (n,) fp32, or fp64 where the logits are.
    """
    at, width = _grid(cu_seqlens)
    at = at.to(ids.device)
    scored = logits.flatten(0, 1)[at]
    losses = F.cross_entropy(scored.to(torch.promote_types(scored.dtype, torch.float32)), ids, reduction="none")
    # Placed and summed by row: adding by index would not be deterministic on a GPU.
    return losses.new_zeros((len(cu_seqlens) - 1) * width).index_copy(0, at, losses).view(-1, width).sum(1)


def _taught(
    encoded: _Encoded, read: Any, rows: Tensor, other: _Encoded, taught: Any, cu_seqlens: Tensor, teachers: Teachers
) -> Tensor:
    """What n rows are to learn from their teachers, (n,): see `Teachers`.

    `encoded` and `other` are the encoder's states of these rows, `taught` what was read by them with their teachers,
    and `read` what the whole batch read by its own prompts, of which these are the `rows`; cu_seqlens (n+1,) are those
    of their labels.
    """
    device = rows.device
    at, width = _grid(cu_seqlens)
    lengths, at = cu_seqlens.diff().to(device), at.to(device)
    each = torch.repeat_interleave(torch.arange(len(rows), device=device), lengths)
    weight, temperature, hidden = (of.to(device) for of in (teachers.weight, teachers.temperature, teachers.hidden))

    def by_row(values: Tensor) -> Tensor:
        return values.new_zeros(len(rows) * width).index_copy(0, at, values).view(-1, width).sum(1)

    own, theirs = (x[:, :width].flatten(0, 1)[at] for x in (read.logits[rows], taught.logits))
    found = weight * by_row(divergences(own, theirs, temperature[each]))
    if not bool(hidden.any()):
        return found
    own, theirs = (
        x[:, :width].flatten(0, 1)[at] for x in (read.decoder_hidden_states[-1][rows], taught.decoder_hidden_states[-1])
    )
    decoder = by_row((own - theirs).float().square().mean(1))  # the sum of M tokens: M times their mean
    longest = other.states.shape[1]
    squares = (encoded.states[:, :longest] - other.states).float().square().mean(2) * other.mask
    encoder = lengths * squares.sum(1) / other.mask.sum(1)
    return found + hidden * (encoder + decoder)


ENTRY = ReferenceTrunk
