"""Trunks of transformers' own models, whose rows are padded: all arithmetic is left to transformers.

A batch is read once: `Read` is what becomes of its rows before anything is written. Losses, greedy answers and scores
of labels come from three functions that an engine adds. When a model of another family than T5 is opened, two short
rows are read and written in this way, and beside it one by one by their token ids: a model for which that is not the
same is none that soft prompts can be put before, and is refused.
"""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compt_fast.models.base import BaseTrunk
from compt_fast.models.batch import Batch, TargetPrompts, make_batch
from compt_fast.models.checkpoint import brief, fingerprint, quiet_transformers
from compt_fast.models.distillation import Teachers
from compt_fast.models.families import T5
from compt_fast.models.padding import LabelPlaces, cross_entropy, pad
from compt_fast.ops.varlen import cu_seqlens_of
from compt_fast.utils.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHUNK_ELEMENTS = 1 << 26  # bound of the largest tensor while ranking (ours): 256 MiB in fp32
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}  # of the logits of two short rows, relative (ours)
ARGUMENTS = ("inputs_embeds", "attention_mask", "past_key_values")


@dataclass(frozen=True)
class Read:
    """What was read of B rows, L places of each: `states` (B, L, d), those of an encoder or the embeddings themselves,
    and `mask` (B, L) int64, 0 where there is padding.
    """

    states: Tensor
    mask: Tensor

    def select(self, rows: Tensor) -> Read:
        return Read(self.states[rows], self.mask[rows])


@dataclass(frozen=True)
class Written:
    """What stands where labels are written: `logits` (B, M, V) and, where asked for, the decoder's last hidden `states`
    (B, M, d).
    """

    logits: Tensor
    states: Tensor | None = None


class PaddedTrunk(BaseTrunk):
    """A frozen model of transformers as it is, with padding on the `padding_side` of its rows."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, prompt_position: str
    ) -> None:
        super().__init__(model, tokenizer, name, prompt_position)
        self.model = model
        if self.family not in T5.classes():
            self._check_arguments()
        with self._as_a_trunk():
            embeds = self._embeds()
            # Some scale what they look up; the table is then what they give, as soft prompts stand beside that.
            scaled = type(embeds) is not nn.Embedding
            self._table = embeds(torch.arange(len(embeds.weight), device=model.device)) if scaled else embeds.weight
        if self.family not in T5.classes():
            self._check_reading()

    @property
    def embedding(self) -> Tensor:
        return self._table.detach()

    def fingerprint(self) -> str:
        return fingerprint(self.model)

    @abstractmethod
    def _embeds(self) -> Any:
        """The module that embeds what is read."""

    @abstractmethod
    def _read(self, prompts: TargetPrompts, batch: Batch, input_update: Tensor | None) -> Read: ...

    @abstractmethod
    def _write(self, read: Read, labels: Tensor, hidden: bool) -> Written:
        """What gives each token of `labels` (B, M), after those before it; differentiable. `hidden`: its states too, of
        a trunk that `compares_hidden`.
        """

    @abstractmethod
    def _begin(self, read: Read) -> tuple[Tensor, Any]:
        """The logits (B, 1, V) of what is written first, and the cache of keys and values."""

    @abstractmethod
    def _go_on(self, read: Read, cache: Any, ids: Tensor, written: int) -> Tensor:
        """The logits (B, n, V) behind each of `ids` (B, n), which follow `written` tokens in `cache`, and join them."""

    @abstractmethod
    def _plain(self, row: list[int], written: list[int]) -> Tensor:
        """The logits (len(written) + 1, V) of what follows a row of token ids and each token that is `written`, by
        transformers alone, from the ids.
        """

    def row_losses(
        self,
        prompts: TargetPrompts,
        batch: Batch,
        input_update: Tensor | None = None,
        teachers: Teachers | None = None,
    ) -> Tensor:
        self._check_labels(batch)
        self._check_teachers(prompts, batch, teachers)
        hidden = teachers is not None and bool(teachers.hidden.any())
        read = self._read(prompts, batch, input_update)
        ids = batch.label_ids.to(self.device)
        written = self._write(read, pad(ids, batch.label_cu_seqlens), hidden)
        losses = cross_entropy(written.logits, ids, batch.label_cu_seqlens)
        if teachers is None:
            return losses
        return losses.index_add(0, teachers.rows.to(self.device), self._taught(read, written, batch, teachers))

    def _taught(self, read: Read, written: Written, batch: Batch, teachers: Teachers) -> Tensor:
        """What the rows that have teachers are to learn from them, (n,): see `Teachers`."""
        own, hidden = teachers.batch(batch), written.states is not None
        with torch.no_grad():
            other = self._read(teachers.prompts, own, None)
            taught = self._write(other, pad(own.label_ids.to(self.device), own.label_cu_seqlens), hidden)
        rows, labels = teachers.rows.to(self.device), LabelPlaces.of(own.label_cu_seqlens, self.device)
        losses = teachers.answers_loss(labels, written.logits[rows], taught.logits)
        if written.states is None or taught.states is None:
            return losses
        decoder = labels.sum_by_row(
            (labels.flat(written.states[rows]) - labels.flat(taught.states)).float().square().mean(1)
        )
        longest = other.states.shape[1]
        squares = (read.states[rows, :longest] - other.states).float().square().mean(2) * other.mask
        encoder = labels.lengths * squares.sum(1) / other.mask.sum(1)
        # the decoder's is the sum of M tokens: M times their mean, as the encoder's
        return losses + teachers.hidden.to(self.device) * (encoder + decoder)

    @torch.no_grad()
    def generate(
        self, prompts: TargetPrompts, batch: Batch, max_new_tokens: int, input_update: Tensor | None = None
    ) -> list[list[int]]:
        if max_new_tokens == 0:
            return [[] for _ in range(batch.rows)]
        read = self._read(prompts, batch, input_update)
        logits, cache = self._begin(read)
        columns = [logits.float().argmax(-1)]
        ended = columns[0][:, 0] == self.end_id
        while len(columns) < max_new_tokens and not bool(ended.all()):
            logits = self._go_on(read, cache, columns[-1], len(columns) - 1)
            columns.append(logits.float().argmax(-1))
            ended |= columns[-1][:, 0] == self.end_id
        answers = torch.cat(columns, 1).tolist()
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
        read = self._read(prompts, batch, input_update)
        labels = list(chain.from_iterable(candidates))
        rows = torch.repeat_interleave(torch.arange(batch.rows), torch.tensor(counts))
        max_label = max(len(label) for label in labels)
        size = self._pairs_at_once(read.states.shape[1], max_label)
        chunks = [
            self._score_pairs(read, rows[first : first + size], labels[first : first + size])
            for first in range(0, len(labels), size)
        ]
        return list(torch.cat(chunks).cpu().split(counts))

    def _score_pairs(self, read: Read, rows: Tensor, labels: list[Sequence[int]]) -> Tensor:
        """The log-likelihood of label i after row `rows[i]`: (n,) fp32.

        What is written first is computed once a row. It scores every first label token, and leaves the
        row's keys and values behind, which the row's candidates then share.
        """
        cu_seqlens = cu_seqlens_of([len(label) for label in labels])
        ids = torch.tensor(list(chain.from_iterable(labels)), device=self.device)
        padded = pad(ids, cu_seqlens)
        distinct, place = torch.unique_consecutive(rows, return_inverse=True)
        distinct, place, rows = distinct.to(self.device), place.to(self.device), rows.to(self.device)
        logits, cache = self._begin(read.select(distinct))
        logits = logits[place]
        if padded.shape[1] > 1:
            cache.batch_select_indices(place)
            rest = self._go_on(read.select(rows), cache, padded[:, :-1], 0)
            logits = torch.cat([logits, rest], 1)
        return -cross_entropy(logits, ids, cu_seqlens)

    def _pairs_at_once(self, width: int, max_label: int) -> int:
        """How many candidates keep logits and the caches of `width` places within `CHUNK_ELEMENTS`."""
        logits = max_label * len(self.embedding)
        return max(1, CHUNK_ELEMENTS // max(2 * self._cached_elements() * width, logits))

    def _cached_elements(self) -> int:
        """The keys of one place in all layers; at most, as some models share them between heads."""
        config = self.config.get_text_config()
        return int(config.num_hidden_layers * config.hidden_size)

    def _assemble(self, prompts: TargetPrompts, batch: Batch, input_update: Tensor | None) -> Read:
        """Prompt and text side by side, and padding before or behind: (B, L, d) in the trunk's dtype; its mask."""
        self._check_inputs(prompts, batch, input_update)
        at = batch.placement(prompts.cu_seqlens, self.prepend).padded()
        width = int(at.lengths.max())
        filled = torch.arange(width)[None] < at.lengths[:, None]
        before = torch.zeros_like(at.lengths)
        if self.padding_side == "left":
            before = width - at.lengths
            filled = filled.flip(1)
        text = self._text(batch, input_update)
        # Gathered before it is cast: the rows' gradients are summed in the prompt's own dtype.
        prompt = F.embedding(at.prompt_rows.to(self.device), prompts.flat).to(self.dtype)
        inputs = torch.zeros(batch.rows * width, self.d_model, dtype=self.dtype, device=self.device)
        for places, lengths, values in (
            (at.text_places, at.text_lengths, text),
            (at.prompt_places, at.prompt_lengths, prompt),
        ):
            shifted = places + before.repeat_interleave(lengths)
            inputs = inputs.index_copy(0, shifted.to(self.device), values)
        return Read(inputs.view(batch.rows, width, self.d_model), filled.to(self.device, torch.int64))

    def _check_arguments(self) -> None:
        """Raise `InputError` for a model without the arguments that make it a trunk."""
        known = inspect.signature(self.model.forward).parameters
        if missing := next((name for name in ARGUMENTS if name not in known), None):
            raise InputError(f"{self._called()} takes no {missing}, and a trunk reads soft prompts by it")

    @torch.no_grad()
    def _check_reading(self) -> None:
        """Raise `InputError` for a model that does not read embeddings, beside padding, as it reads their tokens."""
        rows = [[*range(3, 10)], [*range(11, 14)]]
        with self._as_a_trunk(), quiet_transformers():
            together, *alone = (self._distance(part) for part in (rows, rows[:1], rows[1:]))
        limit = TOLERANCE[self.dtype]
        if max(alone) <= limit and together <= limit:
            return
        why = f"does not read embeddings (inputs_embeds) as their tokens, or not from left to right: {max(alone):.2g}"
        if max(alone) <= limit:
            why = f"answers a row otherwise beside a longer one, so that it reads its padding: {together:.2g}"
        raise InputError(f"{self._called()} {why} of the logits' norm apart; soft prompts cannot stand before its text")

    def _distance(self, rows: list[list[int]]) -> float:
        """By how much what is written behind these rows, without a prompt, differs from what transformers makes of each
        from its ids alone: a part of the logits' norm, infinite where it is not finite.
        """
        prompts = TargetPrompts(self.embedding.new_zeros(0, self.d_model), torch.zeros(2, dtype=torch.int64))
        written = [[14 + row] for row in range(len(rows))]
        wanted = torch.stack([self._plain(*each) for each in zip(rows, written, strict=True)])
        read = self._read(prompts, make_batch(rows, None, [0] * len(rows)), None)
        first, cache = self._begin(read)
        second = self._go_on(read, cache, torch.tensor(written, device=self.device), 0)
        distance = float((torch.cat([first, second], 1).float() - wanted).norm() / wanted.norm())
        return distance if math.isfinite(distance) else math.inf

    @contextmanager
    def _as_a_trunk(self) -> Iterator[None]:
        """Within, whatever a model raises that is not made to be a trunk is an `InputError`."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{self._called()} cannot be run as a trunk ({brief(error)})") from error

    def _called(self) -> str:
        return f"{self.name}: transformers' {type(self.model).__name__}"
