"""The fast engine: rows packed without padding, and a T5 that exploits that it is frozen.

No weight takes a gradient, so the backward is written by hand: it goes from the losses to the prompts'
embeddings and computes and keeps nothing for any other purpose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compt_fast.models.base import BaseTrunk
from compt_fast.models.batch import Batch, TargetPrompts, longest_first, offsets_of, spread
from compt_fast.models.checkpoint import fingerprint
from compt_fast.models.t5.attention import self_attend
from compt_fast.models.t5.cross_attention import Reading, read
from compt_fast.models.t5.decode import Trie, greedy, rank
from compt_fast.models.t5.decoder import DecoderTape, decode, decode_backward
from compt_fast.models.t5.encoder import EncoderTape, encode, encode_backward
from compt_fast.models.t5.head import token_losses
from compt_fast.models.t5.layout import Pairs, equal_offsets
from compt_fast.models.t5.weights import Weights
from compt_fast.native import assemble

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CACHED_TOKENS = 2048  # of the rows that a CPU takes through all layers at a time, to keep them in its caches (ours)
CARRIED_ELEMENTS = 1 << 26  # bound of the carried queries while ranking (ours): 256 MiB in fp32


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
        self.weights = Weights.take(model)
        self._taken = self.weights.digest()

    @property
    def embedding(self) -> Tensor:
        return self.weights.embedding

    def row_losses(self, prompts: TargetPrompts, batch: Batch) -> Tensor:
        self._check_targets(batch)
        return (self._row_losses if self.device.type == "cpu" else self._sorted_losses)(prompts, batch)

    def _sorted_losses(self, prompts: TargetPrompts, batch: Batch) -> Tensor:
        """`row_losses` by way of sorted rows: on a GPU the programs of the longest ones start first, so that none of
        them is left to end alone.
        """
        self._check_sources(prompts, batch)
        order = longest_first(batch.source_lengths + prompts.lengths[batch.slots])
        losses = self._row_losses(prompts, batch.take(order))
        return losses[order.argsort().to(self.device)]

    def _row_losses(self, prompts: TargetPrompts, batch: Batch) -> Tensor:
        inputs, offsets = self._assemble(prompts, batch)
        pieces = [
            _Piece(
                slice(int(offsets[rows[0]]), int(offsets[rows[-1] + 1])),
                self._layout(offsets_of(offsets.diff()[rows]), prompts.lengths[batch.slots[rows]]),
                Targets.of(batch.take(rows) if len(rows) < batch.rows else batch, self.start_id, self.weights),
            )
            for rows in _at_a_time(offsets, self.device)
        ]
        if torch.is_grad_enabled() and inputs.requires_grad:
            losses: Tensor = _RowLosses.apply(inputs, pieces, self.weights)
            return losses
        return torch.cat([piece.losses(inputs, self.weights) for piece in pieces])

    @torch.no_grad()
    def generate(self, prompts: TargetPrompts, batch: Batch, max_new_tokens: int) -> list[list[int]]:
        states, offsets = self._encoded(prompts, batch)
        one_each = equal_offsets(batch.rows, 1)
        reading = read(states, one_each, offsets, self.weights, times=max_new_tokens)
        return greedy(reading, self.start_id, self.end_id, max_new_tokens)

    @torch.no_grad()
    def label_scores(
        self, prompts: TargetPrompts, batch: Batch, candidates: Sequence[Sequence[Sequence[int]]]
    ) -> list[Tensor]:
        self._check_candidates(batch, candidates)
        states, offsets = self._encoded(prompts, batch)
        known: dict[tuple[tuple[int, ...], ...], Trie] = {}
        tries = []
        for row in candidates:
            key = tuple(tuple(label) for label in row)
            if key not in known:
                known[key] = Trie.of(key, self.start_id)
            tries.append(known[key])
        nodes = [len(trie.tokens) for trie in tries]
        reading = read(states, offsets_of(nodes), offsets, self.weights)
        scores = [rank(part, tries[at]) for at, part in self._parts(reading, nodes)]
        return list(torch.cat(scores).split([len(row) for row in candidates]))

    def fingerprint(self) -> str:
        # The checkpoint's own, as the reference gives it, while what was made of its weights is intact.
        now = self.weights.digest()
        return self._checkpoint if now == self._taken else now

    def _assemble(self, prompts: TargetPrompts, batch: Batch) -> tuple[Tensor, Tensor]:
        """The packed embeddings (N, d) and the rows' offsets (B+1,) in them."""
        self._check_sources(prompts, batch)
        return assemble(
            prompts.flat,
            prompts.offsets,
            batch.slots,
            batch.source_ids.to(self.device),
            batch.source_offsets,
            self.embedding,
            self.prompt_position == "prepend",
            batch.source_tokens + int(prompts.lengths[batch.slots].sum()),
        )

    def _layout(self, offsets: Tensor, lengths: Tensor) -> Layout:
        """Of rows at `offsets` (B+1,) whose prompts have `lengths` (B,) tokens."""
        starts = offsets[:-1] if self.prompt_position == "prepend" else offsets[1:] - lengths
        return Layout(self._pairs(offsets), spread(starts, lengths).to(self.device))

    def _pairs(self, offsets: Tensor) -> Pairs:
        bias = self.weights.encoder_bias.by_distance(int(offsets.diff().max()))
        return Pairs(offsets, offsets, self.device, self.weights.inner, bias)

    def _encoded(self, prompts: TargetPrompts, batch: Batch) -> tuple[Tensor, Tensor]:
        """The encoder's states (N, d) without a way back, and the rows' offsets (B+1,) in them."""
        inputs, offsets = self._assemble(prompts, batch)
        states = torch.empty_like(inputs)
        for rows in _at_a_time(offsets, self.device):
            here = slice(int(offsets[rows[0]]), int(offsets[rows[-1] + 1]))
            states[here] = encode(inputs[here], self.weights, self._pairs(offsets_of(offsets.diff()[rows])))
        return states, offsets

    def _parts(self, reading: Reading, nodes: list[int]) -> Iterator[tuple[slice, Reading]]:
        """Some rows at a time, so that what their nodes carry stays within `CARRIED_ELEMENTS`."""
        most = max(1, CARRIED_ELEMENTS // (self.weights.heads * self.d_model))
        first = total = 0
        for row, count in enumerate([*nodes, most]):
            if total + count > most and row > first:
                whole = row - first == len(nodes)
                yield slice(first, row), reading if whole else reading.select(torch.arange(first, row))
                first, total = row, 0
            total += count


@dataclass(frozen=True)
class Layout:
    """The encoder's packed rows: who attends to whom, and the places (n,) of all prompt tokens."""

    pairs: Pairs
    prompts: Tensor

    def reading(self, states: Tensor, targets: Targets, weights: Weights) -> Reading:
        """How the `targets` read the encoder's `states` (N, d)."""
        return read(states, targets.own.q_offsets, self.pairs.k_offsets, weights)


@dataclass(frozen=True)
class Targets:
    """The packed targets: `ids` (M,), what the decoder reads for them, its attention, the rows' lengths."""

    ids: Tensor
    inputs: Tensor
    own: Pairs
    lengths: Tensor

    def summed(self, losses: Tensor) -> Tensor:
        """Each row's loss (B,) of its tokens' (M,)."""
        return torch.segment_reduce(losses, "sum", lengths=self.lengths)

    def weighed_(self, slopes: Tensor, grad: Tensor) -> Tensor:
        """The tokens' `slopes` (M, d) times `grad` (B,), that of their row's loss; in place."""
        return slopes.mul_(torch.repeat_interleave(grad, self.lengths)[:, None])

    @classmethod
    def of(cls, batch: Batch, start_id: int, weights: Weights) -> Targets:
        ids = batch.target_ids.to(weights.embedding.device)
        # The decoder reads the start token and then every target token but the last.
        inputs = ids.roll(1)
        inputs[batch.target_offsets[:-1].to(ids.device)] = start_id
        bias = weights.decoder_bias.by_distance(int(batch.target_lengths.max()))
        own = Pairs(batch.target_offsets, batch.target_offsets, ids.device, weights.inner, bias)
        return cls(ids, inputs, own, batch.target_lengths.to(ids.device))


def _at_a_time(offsets: Tensor, device: torch.device) -> Iterator[Tensor]:
    """All rows, by their numbers: on a CPU as many at a time as its caches hold."""
    rows = torch.arange(len(offsets) - 1)
    if device.type != "cpu":
        yield rows
        return
    first = 0
    while first < len(rows):
        within = int(torch.searchsorted(offsets, offsets[first] + CACHED_TOKENS, right=True)) - 1
        last = max(first + 1, within)
        yield rows[first:last]
        first = last


@dataclass
class _Way:
    """The way back from a batch's losses: what the forward kept for it."""

    encoder: EncoderTape
    decoder: DecoderTape
    reading: Reading
    slopes: Tensor


def _decoded_losses(
    states: Tensor, layout: Layout, targets: Targets, weights: Weights, tape: EncoderTape | None
) -> tuple[Tensor, _Way | None]:
    """Each row's loss (B,) fp32 from the encoder's states; and the way back, if its `tape` is given."""
    reading = layout.reading(states, targets, weights)
    decoder = DecoderTape() if tape is not None else None

    def attend(qkv: Tensor, depth: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self_attend(qkv, targets.own)

    out = decode(targets.inputs, attend, reading, decoder)
    losses, slopes = token_losses(out, weights.head, targets.ids, graded=tape is not None)
    way = None
    if tape is not None and decoder is not None and slopes is not None:
        way = _Way(tape, decoder, reading, slopes)
    return targets.summed(losses), way


def losses_and_way(inputs: Tensor, layout: Layout, targets: Targets, weights: Weights) -> tuple[Tensor, _Way | None]:
    """Packed embeddings (N, d) -> row losses (B,) fp32, and the way back from them to the prompts."""
    tape = EncoderTape()
    states = encode(inputs, weights, layout.pairs, tape)
    return _decoded_losses(states, layout, targets, weights, tape)


def prompts_gradient(grad: Tensor, way: _Way | None, layout: Layout, targets: Targets, weights: Weights) -> Tensor:
    """The gradient (n, d) of the embeddings at the prompts' places from that of the row losses (B,).

    Uses `way` up. Raises RuntimeError where that has been done.
    """
    if way is None:
        raise RuntimeError("the losses' backward frees what it uses and can be called only once")
    states_grad = decode_backward(targets.weighed_(way.slopes, grad), targets.own, way.reading, way.decoder)
    del way.decoder, way.slopes, way.reading
    return encode_backward(states_grad, weights, layout.pairs, way.encoder, layout.prompts)


@dataclass(frozen=True)
class _Piece:
    """Some rows of a batch, which go through all layers together: where their tokens lie, and all else."""

    tokens: slice
    layout: Layout
    targets: Targets

    def losses(self, inputs: Tensor, weights: Weights) -> Tensor:
        """The rows' losses without a way back, from the whole batch's embeddings (N, d)."""
        states = encode(inputs[self.tokens], weights, self.layout.pairs)
        return _decoded_losses(states, self.layout, self.targets, weights, None)[0]


class _RowLosses(torch.autograd.Function):
    """Packed embeddings (N, d) -> row losses (B,) fp32, differentiable where prompts stand."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, pieces: list[_Piece], weights: Weights) -> Tensor:
        found = [losses_and_way(inputs[piece.tokens], piece.layout, piece.targets, weights) for piece in pieces]
        ctx.ways = [way for _, way in found]
        ctx.pieces, ctx.weights, ctx.shape = pieces, weights, inputs.shape
        return torch.cat([losses for losses, _ in found])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        # The text's embeddings are frozen: what would reach them is neither computed nor wanted.
        inputs_grad = torch.zeros(ctx.shape, dtype=ctx.weights.embedding.dtype, device=grad.device)
        parts = grad.split([len(piece.targets.lengths) for piece in ctx.pieces])
        for i, (piece, part) in enumerate(zip(ctx.pieces, parts, strict=True)):
            way, ctx.ways[i] = ctx.ways[i], None
            prompts_grad = prompts_gradient(part, way, piece.layout, piece.targets, ctx.weights)
            inputs_grad[piece.tokens].index_copy_(0, piece.layout.prompts, prompts_grad)
        return inputs_grad, None, None
