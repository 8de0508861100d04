"""Rows packed without padding, a T5 that exploits that it is frozen.

No weight takes a gradient, so the backward is written by hand: it goes from the losses to the prompts'
embeddings, and to the text's where they are updated, and computes and saves nothing for any other purpose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compt_fast.models.base import BaseTrunk
from compt_fast.models.batch import Batch, TargetPrompts, longest_first
from compt_fast.models.checkpoint import fingerprint
from compt_fast.models.distillation import Teachers
from compt_fast.models.t5.cross_attention import CrossAttention, cross_attention_for
from compt_fast.models.t5.decode import Trie, greedy, rank
from compt_fast.models.t5.distillation import Taught
from compt_fast.models.t5.encoder import encode
from compt_fast.models.t5.losses import Chunk, EncoderRows, LabelRows, RowLosses
from compt_fast.models.t5.weights import Weights
from compt_fast.ops.assembly import assemble
from compt_fast.ops.varlen import VarlenLayout, cu_seqlens_of, equal_cu_seqlens, ranges
from compt_fast.utils.environment import cpu
from compt_fast.utils.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CACHED_TOKENS = 2048  # of the rows that a CPU takes through all layers at a time, to keep them in its caches (ours)
ABSORBED_ELEMENTS = 1 << 26  # bound of the absorbed queries while ranking (ours): 256 MiB in fp32


class PackedTrunk(BaseTrunk):
    """A frozen T5 without padding, with a forward and backward of its own."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        prompt_position: str,
    ) -> None:
        super().__init__(model, tokenizer, name, prompt_position)
        self._checkpoint = fingerprint(model)
        self.weights = Weights.from_model(model)
        self._digest = self.weights.digest()
        self.differentiable = True

    @property
    def embedding(self) -> Tensor:
        return self.weights.embedding

    def prepare(self) -> None:
        _ = self.weights.likeliest

    def quantise(self) -> None:
        if self.device.type != "cpu":
            raise InputError(f"--dtype int8 is for the CPU, not for {self.device.type}; take bf16 there")
        between = torch.float32 if cpu()["bf16"] is None else torch.bfloat16  # whatever is quicker here
        self.weights = self.weights.to_int8(between)
        self.prepare()
        self._digest = self.weights.digest()
        self.differentiable = False

    def row_losses(
        self,
        prompts: TargetPrompts,
        batch: Batch,
        input_update: Tensor | None = None,
        teachers: Teachers | None = None,
    ) -> Tensor:
        self._check_labels(batch)
        self._check_teachers(prompts, batch, teachers)
        losses = self._row_losses if self.device.type == "cpu" else self._sorted_losses
        return losses(prompts, batch, input_update, teachers)

    def _sorted_losses(
        self,
        prompts: TargetPrompts,
        batch: Batch,
        input_update: Tensor | None = None,
        teachers: Teachers | None = None,
    ) -> Tensor:
        """`row_losses` by way of sorted rows: on a GPU the programs of the longest ones start first, so that none of
        them is left to end alone.
        """
        self._check_inputs(prompts, batch, input_update)
        order = longest_first(batch.input_lengths + prompts.lengths[batch.slots])
        if input_update is not None:
            input_update = input_update[batch.input_places(order).to(self.device)]
        teachers = teachers and teachers.of_ordered(order)
        losses = self._row_losses(prompts, batch.take(order), input_update, teachers)
        return losses[order.argsort().to(self.device)]

    def _row_losses(
        self,
        prompts: TargetPrompts,
        batch: Batch,
        input_update: Tensor | None = None,
        teachers: Teachers | None = None,
    ) -> Tensor:
        inputs, cu_seqlens = self._assemble(prompts, batch, input_update)
        everywhere = input_update is not None and input_update.requires_grad
        taught = None if teachers is None else self._taught(teachers, batch)
        chunks = [
            self._chunk(prompts, batch, rows, cu_seqlens, everywhere, taught)
            for rows in _row_chunks(cu_seqlens, self.device)
        ]
        if torch.is_grad_enabled() and inputs.requires_grad:
            if not self.differentiable:
                raise InputError("a trunk in int8 gives no gradient; train in fp32 or bf16")
            losses: Tensor = RowLosses.apply(inputs, chunks, self.weights)
            return losses
        return torch.cat([chunk.losses(inputs, self.weights) for chunk in chunks])

    @torch.no_grad()
    def _taught(self, teachers: Teachers, batch: Batch) -> Taught:
        """What the label tokens of a batch are to learn from its rows' teachers."""
        own = teachers.batch(batch)
        inputs, cu_seqlens = self._assemble(teachers.prompts, own, None)
        chunks = [
            self._chunk(teachers.prompts, own, rows, cu_seqlens, everywhere=False)
            for rows in _row_chunks(cu_seqlens, self.device)
        ]
        lengths = own.label_lengths
        weight, temperature = (
            torch.repeat_interleave(of, lengths).to(self.device) for of in (teachers.weight, teachers.temperature)
        )
        states = torch.cat([chunk.label_states(inputs, self.weights) for chunk in chunks])
        return Taught(ranges(batch.label_cu_seqlens[teachers.rows], lengths), states, weight, temperature)

    def _chunk(
        self,
        prompts: TargetPrompts,
        batch: Batch,
        rows: Tensor,
        cu_seqlens: Tensor,
        everywhere: bool,
        taught: Taught | None = None,
    ) -> Chunk:
        """The consecutive `rows` of a batch, whose packed rows have `cu_seqlens` (B+1,); a gradient is wanted
        `everywhere`, or at their prompts alone.
        """
        part = batch.take(rows) if len(rows) < batch.rows else batch
        at = part.placement(prompts.cu_seqlens, self.prepend)
        if taught is not None:
            first, end = batch.label_cu_seqlens[rows[0]], batch.label_cu_seqlens[rows[-1] + 1]
            taught = taught.within(int(first), int(end))
        return Chunk(
            slice(int(cu_seqlens[rows[0]]), int(cu_seqlens[rows[-1] + 1])),
            EncoderRows(self._layout(at.cu_seqlens), None if everywhere else at.prompt_places.to(self.device)),
            LabelRows.of(part, self.start_id, self.weights),
            taught,
        )

    @torch.no_grad()
    def generate(
        self, prompts: TargetPrompts, batch: Batch, max_new_tokens: int, input_update: Tensor | None = None
    ) -> list[list[int]]:
        return self._generated(*self._encode(prompts, batch, input_update), max_new_tokens)

    @torch.no_grad()
    def label_scores(
        self,
        prompts: TargetPrompts,
        batch: Batch,
        candidates: Sequence[Sequence[Sequence[int]]],
        input_update: Tensor | None = None,
    ) -> list[Tensor]:
        self._check_candidates(batch, candidates)
        return self._scored(*self._encode(prompts, batch, input_update), candidates)

    @torch.no_grad()
    def generate_and_score(
        self,
        prompts: TargetPrompts,
        batch: Batch,
        max_new_tokens: int,
        candidates: Sequence[Sequence[Sequence[int]]],
        input_update: Tensor | None = None,
    ) -> tuple[list[list[int]], list[Tensor]]:
        self._check_candidates(batch, candidates)
        encoded = self._encode(prompts, batch, input_update)
        return self._generated(*encoded, max_new_tokens), self._scored(*encoded, candidates)

    def _generated(self, states: Tensor, cu_seqlens: Tensor, max_new_tokens: int) -> list[list[int]]:
        """The greedy answers to rows with these encoder states (N, d) and cumulative lengths (B+1,)."""
        one_each = equal_cu_seqlens(len(cu_seqlens) - 1, 1)
        cross_attention = cross_attention_for(states, one_each, cu_seqlens, self.weights, times=max_new_tokens)
        return greedy(cross_attention, self.start_id, self.end_id, max_new_tokens)

    def _scored(
        self, states: Tensor, cu_seqlens: Tensor, candidates: Sequence[Sequence[Sequence[int]]]
    ) -> list[Tensor]:
        """The log-likelihoods of rows' candidates; arguments as of `_generated`."""
        tries_of: dict[tuple[tuple[int, ...], ...], Trie] = {}
        tries = []
        for row in candidates:
            key = tuple(tuple(label) for label in row)
            if key not in tries_of:
                tries_of[key] = Trie.of(key, self.start_id)
            tries.append(tries_of[key])
        nodes = [len(trie.tokens) for trie in tries]
        cross_attention = cross_attention_for(states, cu_seqlens_of(nodes), cu_seqlens, self.weights)
        scores = [rank(part, tries[at]) for at, part in self._parts(cross_attention, nodes)]
        return list(torch.cat(scores).split([len(row) for row in candidates]))

    def fingerprint(self) -> str:
        # The checkpoint's, as the reference gives it, while what was made of its weights is intact.
        now = self.weights.digest()
        return self._checkpoint if now == self._digest else now

    def _assemble(self, prompts: TargetPrompts, batch: Batch, input_update: Tensor | None) -> tuple[Tensor, Tensor]:
        """The packed embeddings (N, d) and the rows' cumulative lengths (B+1,) in them."""
        self._check_inputs(prompts, batch, input_update)
        inputs, cu_seqlens = assemble(
            prompts.flat,
            prompts.cu_seqlens,
            batch.slots,
            batch.input_ids.to(self.device),
            batch.input_cu_seqlens,
            self.embedding,
            self.prepend,
            batch.input_tokens + int(prompts.lengths[batch.slots].sum()),
        )
        if input_update is not None:
            places = batch.placement(prompts.cu_seqlens, self.prepend).text_places.to(self.device)
            inputs = inputs.index_copy(0, places, self._text(batch, input_update))
        return inputs, cu_seqlens

    def _layout(self, cu_seqlens: Tensor) -> VarlenLayout:
        """The encoder's self-attention of rows with these cumulative lengths (B+1,)."""
        bias = self.weights.encoder_bias.by_distance(int(cu_seqlens.diff().max()))
        return VarlenLayout(cu_seqlens, cu_seqlens, self.device, self.weights.inner, bias)

    def _encode(self, prompts: TargetPrompts, batch: Batch, input_update: Tensor | None) -> tuple[Tensor, Tensor]:
        """The encoder's states (N, d) without a backward, and the rows' cumulative lengths (B+1,) in them."""
        inputs, cu_seqlens = self._assemble(prompts, batch, input_update)
        states = torch.empty_like(inputs)
        for rows in _row_chunks(cu_seqlens, self.device):
            here = slice(int(cu_seqlens[rows[0]]), int(cu_seqlens[rows[-1] + 1]))
            layout = self._layout(cu_seqlens_of(cu_seqlens.diff()[rows]))
            states[here] = encode(inputs[here], self.weights, layout)
        return states, cu_seqlens

    def _parts(self, cross_attention: CrossAttention, nodes: list[int]) -> Iterator[tuple[slice, CrossAttention]]:
        """Some rows at a time, so that the absorbed queries of their nodes stay within `ABSORBED_ELEMENTS`."""
        most = max(1, ABSORBED_ELEMENTS // (self.weights.heads * self.d_model))
        first = total = 0
        for row, count in enumerate([*nodes, most]):
            if total + count > most and row > first:
                whole = row - first == len(nodes)
                part = cross_attention if whole else cross_attention.select(torch.arange(first, row))
                yield slice(first, row), part
                first, total = row, 0
            total += count


def _row_chunks(cu_seqlens: Tensor, device: torch.device) -> Iterator[Tensor]:
    """All rows, by their numbers: on a CPU as many at a time as its caches hold."""
    rows = torch.arange(len(cu_seqlens) - 1)
    if device.type != "cpu":
        yield rows
        return
    first = 0
    while first < len(rows):
        within = int(torch.searchsorted(cu_seqlens, cu_seqlens[first] + CACHED_TOKENS, right=True)) - 1
        last = max(first + 1, within)
        yield rows[first:last]
        first = last


ENTRY = PackedTrunk
