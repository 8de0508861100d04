"""The reference engine: transformers' own T5, padded, with the prompts inside its input embeddings.

It is the measure of every other engine, so it leaves all arithmetic to transformers and only lays
out its input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from compt_fast.errors import InputError, unknown
from compt_fast.trunk.batch import Batch, TargetPrompts, offsets_of, spread
from compt_fast.trunk.checkpoint import find_folder, load_checkpoint
from compt_fast.trunk.seam import PROMPT_POSITIONS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = (torch.float32, torch.bfloat16)
CHUNK_ELEMENTS = 1 << 26  # bound of the largest tensor while ranking (ours): 256 MiB in fp32


@dataclass(frozen=True)
class _Encoded:
    """The encoder's output (B, L, d), and its mask (B, L) int64: 0 where there is padding."""

    states: Tensor
    mask: Tensor

    def select(self, rows: Tensor) -> _Encoded:
        return _Encoded(self.states[rows], self.mask[rows])


class ReferenceTrunk:
    """A frozen transformers T5 behind `compt_fast.trunk.seam.Trunk`, which says what it offers."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        prompt_position: str,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.prompt_position = prompt_position
        self.end_id = int(tokenizer.eos_token_id)
        start = getattr(model.config, "decoder_start_token_id", None)
        self.start_id = int(model.config.pad_token_id if start is None else start)

    @classmethod
    def load(
        cls,
        name_or_dir: str,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        prompt_position: str,
    ) -> ReferenceTrunk:
        """The checkpoint in the folder `name_or_dir`, or of that name on the hub, in fp32 or bf16.

        Raises InputError for what `find_folder` and `load_checkpoint` refuse, another dtype, an
        unknown position and a device that is not there.
        """
        if dtype not in DTYPES:
            raise InputError(f"a trunk computes in fp32 or bf16, not in {dtype}")
        device = torch.device(device)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise InputError("device cuda: torch sees no GPU here; use cpu")
        if prompt_position not in PROMPT_POSITIONS:
            raise unknown("prompt position", prompt_position, PROMPT_POSITIONS)
        model, tokenizer = load_checkpoint(find_folder(name_or_dir), dtype)
        return cls(model.to(device), tokenizer, name_or_dir, prompt_position)

    @property
    def d_model(self) -> int:
        return int(self.embedding.shape[1])

    @property
    def max_input_length(self) -> int:
        return int(getattr(self.model.config, "n_positions", 1024))

    @property
    def embedding(self) -> Tensor:
        return self.model.get_input_embeddings().weight.detach()

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def row_losses(self, prompts: TargetPrompts, batch: Batch) -> Tensor:
        if bool((batch.target_lengths == 0).any()):
            raise ValueError("every row needs a target for its loss")
        encoded = self._encode(prompts, batch)
        ids = batch.target_ids.to(self.device)
        targets = _pad(ids, batch.target_offsets)
        # The decoder reads the start token and then every target token but the last.
        inputs = F.pad(targets[:, :-1], (1, 0), value=self.start_id)
        logits = self._decode(encoded, inputs).logits
        return _cross_entropy(logits, ids, batch.target_offsets)

    @torch.no_grad()
    def generate(
        self, prompts: TargetPrompts, batch: Batch, max_new_tokens: int
    ) -> list[list[int]]:
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
        return [
            answer[: answer.index(self.end_id)] if self.end_id in answer else answer
            for answer in answers
        ]

    @torch.no_grad()
    def label_scores(
        self, prompts: TargetPrompts, batch: Batch, candidates: Sequence[Sequence[Sequence[int]]]
    ) -> list[Tensor]:
        counts = [len(row) for row in candidates]
        if len(counts) != batch.rows or 0 in counts:
            raise ValueError(
                f"candidates for each of the {batch.rows} rows are needed, got counts {counts}"
            )
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

    def mean_embeddings(self, batch: Batch) -> Tensor:
        embeddings = F.embedding(batch.source_ids.to(self.device), self.embedding).float()
        return torch.segment_reduce(
            embeddings, "mean", lengths=batch.source_lengths.to(self.device)
        )

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, weight in self.model.named_parameters():
            digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}\n".encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def _encode(self, prompts: TargetPrompts, batch: Batch) -> _Encoded:
        if prompts.flat.shape[1] != self.d_model:
            raise InputError(
                f"prompts of d_model {prompts.flat.shape[1]} do not fit the trunk {self.name!r},"
                f" whose d_model is {self.d_model}"
            )
        if int(batch.slots.min()) < 0 or int(batch.slots.max()) >= prompts.slots:
            raise ValueError(
                f"the rows ask for slots {batch.slots.tolist()}, but there are only {prompts.slots}"
                " target prompts"
            )
        inputs, mask = self._assemble(prompts, batch)
        states = self.model.get_encoder()(
            inputs_embeds=inputs, attention_mask=mask
        ).last_hidden_state
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

    def _decode(
        self, encoded: _Encoded, inputs: Tensor, cache: Any = None, use_cache: bool = False
    ) -> Any:
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
        if bool((offsets.diff() == 0).any()):
            raise ValueError("a candidate needs at least one token, its </s>")
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
    tokens: (n,) fp32.
    """
    at, width = _grid(offsets)
    at = at.to(ids.device)
    losses = F.cross_entropy(logits.flatten(0, 1)[at].float(), ids, reduction="none")
    # Placed and summed by row: adding by index would not be deterministic on a GPU.
    return (
        losses.new_zeros((len(offsets) - 1) * width)
        .index_copy(0, at, losses)
        .view(-1, width)
        .sum(1)
    )
