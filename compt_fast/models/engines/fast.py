"""Rows packed without padding, a T5 that exploits that it is frozen.

No weight takes a gradient, so the backward is written by hand: it goes from the losses to the prompts'
embeddings, and to the text's where they are updated, and computes and saves nothing for any other purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compt_fast.kernels import moved
from compt_fast.models.base import BaseTrunk
from compt_fast.models.batch import Batch, TargetPrompts, longest_first
from compt_fast.models.checkpoint import fingerprint
from compt_fast.models.distillation import Teachers
from compt_fast.models.t5.cross_attention import CrossAttention, absorbs, cross_attention_for
from compt_fast.models.t5.decode import Trie, begin_greedy, greedy, rank
from compt_fast.models.t5.distillation import Taught
from compt_fast.models.t5.encoder import encode
from compt_fast.models.t5.losses import Chunk, EncoderRows, LabelRows, RowLosses
from compt_fast.models.t5.weights import Weights
from compt_fast.ops.assembly import assemble
from compt_fast.ops.paths import COMPILED, path
from compt_fast.ops.varlen import VarlenLayout, cu_seqlens_of, ranges
from compt_fast.utils.environment import cpu
from compt_fast.utils.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CACHED_TOKENS = 2048  # of the rows that a CPU takes through all layers at a time, to keep them in its caches (ours)
ABSORBED_ELEMENTS = 1 << 26  # bound of the absorbed queries while ranking (ours): 256 MiB in fp32
ROWWISE = ("norm_activation", "linear", "attention", "newest_attention", "cross_attention")
"""Families of operators of which the extension computes each row as if it were alone."""


class PackedTrunk(BaseTrunk):
    """A frozen T5 without padding, with a forward and backward of its own."""

    joins = True

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
    def begin_generate(
        self, prompts: TargetPrompts, batch: Batch, max_new_tokens: int, input_update: Tensor | None = None
    ) -> Callable[[], list[list[int]]]:
        if self.device.type == "cpu":
            return super().begin_generate(prompts, batch, max_new_tokens, input_update)
        return self._begin_greedy(*self._encode(prompts, batch, input_update)[:2], max_new_tokens)

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

    def _generated(
        self, states: Tensor, cu_seqlens: Tensor, parts: Sequence[slice], max_new_tokens: int
    ) -> list[list[int]]:
        """The greedy answers to rows of `parts`, with these encoder states (N, d) and cumulative lengths (B+1,)."""
        if self.device.type != "cpu":
            return self._begin_greedy(states, cu_seqlens, max_new_tokens)()
        asked = [max_new_tokens] * (len(cu_seqlens) - 1)
        answers = []
        for rows, _ in self._together(parts, asked, cu_seqlens):
            cross_attention = self._cross_attention(states, cu_seqlens, rows, [1] * len(asked), max_new_tokens)
            answers += greedy(cross_attention, self.start_id, self.end_id, max_new_tokens)
        return answers

    def _begin_greedy(self, states: Tensor, cu_seqlens: Tensor, max_new_tokens: int) -> Callable[[], list[list[int]]]:
        """What gives the greedy answers to all rows when it is called."""
        rows = slice(0, len(cu_seqlens) - 1)
        cross_attention = self._cross_attention(states, cu_seqlens, rows, [1] * rows.stop, max_new_tokens)
        return begin_greedy(cross_attention, self.start_id, self.end_id, max_new_tokens)

    def _scored(
        self,
        states: Tensor,
        cu_seqlens: Tensor,
        parts: Sequence[slice],
        candidates: Sequence[Sequence[Sequence[int]]],
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
        scores = []
        for rows, own in self._together(parts, nodes, cu_seqlens):
            cross_attention = self._cross_attention(states, cu_seqlens, rows, nodes)
            for pieces in self._bounded(nodes, own):
                first, end = pieces[0].start, pieces[-1].stop
                whole = end - first == rows.stop - rows.start
                chosen = torch.arange(first - rows.start, end - rows.start)
                part = cross_attention if whole else cross_attention.select(chosen)
                scores.append(rank(part, tries[first:end], [slice(p.start - first, p.stop - first) for p in pieces]))
        return list(torch.cat(scores).split([len(row) for row in candidates]))

    def _together(
        self, parts: Sequence[slice], asked: Sequence[int], cu_seqlens: Tensor
    ) -> list[tuple[slice, Sequence[slice]]]:
        """The rows that the decoder takes at a time, and of which `parts` these are; of each row so many tokens are
        `asked` for.

        On a CPU several parts go together where each has the bits that it has alone: products that do not depend on how
        many rows there are, and keys and values that are absorbed either way.
        """
        rows = slice(0, len(asked))
        whole = [(rows, parts)]
        if self.device.type != "cpu":
            return [(rows, [rows])]
        if len(parts) == 1:
            return whole
        families = (*ROWWISE, "linear_int8") if self.weights.in_int8 else ROWWISE
        lengths = cu_seqlens.diff()
        if all(path(family, self.embedding) == COMPILED for family in families) and all(
            absorbs(torch.tensor(asked[part]), lengths[part], self.weights) for part in parts
        ):
            return whole
        return [(part, [part]) for part in parts]

    def _cross_attention(
        self, states: Tensor, cu_seqlens: Tensor, rows: slice, tokens: Sequence[int], times: int = 1
    ) -> CrossAttention:
        """That of some rows' `tokens` to their states, of all rows' (N, d)."""
        own = slice(int(cu_seqlens[rows.start]), int(cu_seqlens[rows.stop]))
        cu_seqlens_q, cu_seqlens_k = cu_seqlens_of(tokens[rows]), cu_seqlens_of(cu_seqlens.diff()[rows])
        return cross_attention_for(states[own], cu_seqlens_q, cu_seqlens_k, self.weights, times)

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
            moved(batch.input_ids, self.device),
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

    def _encode(
        self, prompts: TargetPrompts, batch: Batch, input_update: Tensor | None
    ) -> tuple[Tensor, Tensor, Sequence[slice]]:
        """The encoder's states (N, d) without a backward, the rows' cumulative lengths (B+1,) in them, and the parts of
        a joined batch, each of which a CPU encodes as if it were alone.
        """
        inputs, cu_seqlens = self._assemble(prompts, batch, input_update)
        states = torch.empty_like(inputs)
        for part in batch.parts if self.device.type == "cpu" else [slice(0, batch.rows)]:
            for own in _row_chunks(cu_seqlens[part.start : part.stop + 1], self.device):
                rows = part.start + own
                here = slice(int(cu_seqlens[rows[0]]), int(cu_seqlens[rows[-1] + 1]))
                layout = self._layout(cu_seqlens_of(cu_seqlens.diff()[rows]))
                states[here] = encode(inputs[here], self.weights, layout)
        return states, cu_seqlens, batch.parts

    def _bounded(self, nodes: Sequence[int], parts: Sequence[slice]) -> Iterator[list[slice]]:
        """The rows of `parts`, some at a time, so that the absorbed queries of their nodes stay within
        `ABSORBED_ELEMENTS`: of a part that does not fit in, pieces, each as if there were no other part.
        """
        most = max(1, ABSORBED_ELEMENTS // (self.weights.heads * self.d_model))
        taken: list[slice] = []
        total = 0
        for piece in chain.from_iterable(_cut(nodes, part, most) for part in parts):
            own = sum(nodes[piece])
            if taken and total + own > most:
                yield taken
                taken, total = [], 0
            taken.append(piece)
            total += own
        yield taken


def _cut(nodes: Sequence[int], part: slice, most: int) -> Iterator[slice]:
    """A part of rows in pieces of up to `most` nodes, or of one row."""
    first, total = part.start, 0
    for row in range(part.start, part.stop):
        if total + nodes[row] > most and row > first:
            yield slice(first, row)
            first, total = row, 0
        total += nodes[row]
    yield slice(first, part.stop)


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
