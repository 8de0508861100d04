"""Row losses of packed embeddings, and their backward: no further than to where a gradient is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compt_fast.models.batch import Batch
from compt_fast.models.t5.cross_attention import CrossAttention, cross_attention_for
from compt_fast.models.t5.decoder import DecoderSaved, decode, decode_backward
from compt_fast.models.t5.distillation import Taught
from compt_fast.models.t5.encoder import EncoderSaved, encode, encode_backward
from compt_fast.models.t5.head import token_losses
from compt_fast.models.t5.weights import Weights
from compt_fast.ops.attention import self_attend
from compt_fast.ops.varlen import VarlenLayout


@dataclass(frozen=True)
class EncoderRows:
    """The encoder's packed rows: who attends to whom, and the `grad_places` (n,) int64 whose embeddings take a
    gradient, those of the prompts; None: all of them.
    """

    layout: VarlenLayout
    grad_places: Tensor | None

    def cross_attention(self, states: Tensor, labels: LabelRows, weights: Weights) -> CrossAttention:
        """That of the `labels` to the encoder's `states` (N, d)."""
        return cross_attention_for(states, labels.layout.cu_seqlens_q, self.layout.cu_seqlens_k, weights)


@dataclass(frozen=True)
class LabelRows:
    """The packed labels: `ids` (M,), the decoder's `inputs` for them, its self-attention, the rows' lengths (B,)."""

    ids: Tensor
    inputs: Tensor
    layout: VarlenLayout
    lengths: Tensor

    def sum_by_row(self, losses: Tensor) -> Tensor:
        """Each row's loss (B,) of its tokens' (M,)."""
        return torch.segment_reduce(losses, "sum", lengths=self.lengths)

    def scale_(self, states_grad: Tensor, grad: Tensor) -> Tensor:
        """The gradients (M, d) of the tokens' losses, times `grad` (B,), that of their row's loss; in place."""
        return states_grad.mul_(torch.repeat_interleave(grad, self.lengths)[:, None])

    @classmethod
    def of(cls, batch: Batch, start_id: int, weights: Weights) -> LabelRows:
        ids = batch.label_ids.to(weights.embedding.device)
        # The decoder reads the start token and then every label token but the last.
        inputs = ids.roll(1)
        inputs[batch.label_cu_seqlens[:-1].to(ids.device)] = start_id
        bias = weights.decoder_bias.by_distance(int(batch.label_lengths.max()))
        cu_seqlens = batch.label_cu_seqlens
        layout = VarlenLayout(cu_seqlens, cu_seqlens, ids.device, weights.inner, bias)
        return cls(ids, inputs, layout, batch.label_lengths.to(ids.device))


@dataclass
class LossesSaved:
    """The tensors saved for `losses_backward`; `states_grad` (M, d) is that of the decoder's states."""

    encoder: EncoderSaved
    decoder: DecoderSaved
    cross_attention: CrossAttention
    states_grad: Tensor


def _label_states(labels: LabelRows, cross_attention: CrossAttention, saved: DecoderSaved | None) -> Tensor:
    """The decoder's states (M, d) where a label stands."""

    def attend(qkv: Tensor, depth: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self_attend(qkv, labels.layout)

    return decode(labels.inputs, attend, cross_attention, saved)


def _losses_of_states(
    states: Tensor,
    rows: EncoderRows,
    labels: LabelRows,
    weights: Weights,
    encoder: EncoderSaved | None,
    taught: Taught | None,
) -> tuple[Tensor, LossesSaved | None]:
    """Each row's loss (B,) fp32 from the encoder's states; with what that saved also what a backward needs."""
    cross_attention = rows.cross_attention(states, labels, weights)
    decoder = DecoderSaved() if encoder is not None else None
    out = _label_states(labels, cross_attention, decoder)
    losses, states_grad = token_losses(out, weights.head, labels.ids, graded=encoder is not None)
    if taught is not None:
        taught.add_(losses, states_grad, out, weights.head)
    saved = None
    if encoder is not None and decoder is not None and states_grad is not None:
        saved = LossesSaved(encoder, decoder, cross_attention, states_grad)
    return labels.sum_by_row(losses), saved


def losses_forward(
    inputs: Tensor, rows: EncoderRows, labels: LabelRows, weights: Weights, taught: Taught | None = None
) -> tuple[Tensor, LossesSaved | None]:
    """Packed embeddings (N, d) -> row losses (B,) fp32, and what `losses_backward` needs."""
    encoder = EncoderSaved()
    states = encode(inputs, weights, rows.layout, encoder)
    return _losses_of_states(states, rows, labels, weights, encoder, taught)


def losses_backward(
    grad: Tensor, saved: LossesSaved | None, rows: EncoderRows, labels: LabelRows, weights: Weights
) -> Tensor:
    """The gradient of the embeddings at `rows.grad_places`, (n, d) or (N, d), from that of the row losses (B,).

    Uses `saved` up. Raises RuntimeError where that has been done.
    """
    if saved is None:
        raise RuntimeError("the losses' backward frees what it uses and can be called only once")
    out_grad = labels.scale_(saved.states_grad, grad)
    encoded_grad = decode_backward(out_grad, labels.layout, saved.cross_attention, saved.decoder)
    del saved.decoder, saved.states_grad, saved.cross_attention
    return encode_backward(encoded_grad, weights, rows.layout, saved.encoder, rows.grad_places)


@dataclass(frozen=True)
class Chunk:
    """Some rows of a batch, which go through all layers together: where their tokens lie, and all else."""

    tokens: slice
    rows: EncoderRows
    labels: LabelRows
    taught: Taught | None = None

    def losses(self, inputs: Tensor, weights: Weights) -> Tensor:
        """The rows' losses without a backward, from the whole batch's embeddings (N, d)."""
        states = encode(inputs[self.tokens], weights, self.rows.layout)
        return _losses_of_states(states, self.rows, self.labels, weights, None, self.taught)[0]

    def label_states(self, inputs: Tensor, weights: Weights) -> Tensor:
        """What the head reads where the rows' labels stand, without a backward: (m, d)."""
        states = encode(inputs[self.tokens], weights, self.rows.layout)
        return _label_states(self.labels, self.rows.cross_attention(states, self.labels, weights), None)


class RowLosses(torch.autograd.Function):
    """Packed embeddings (N, d) -> row losses (B,) fp32, differentiable at the chunks' `grad_places`."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, chunks: list[Chunk], weights: Weights) -> Tensor:
        results = [
            losses_forward(inputs[chunk.tokens], chunk.rows, chunk.labels, weights, chunk.taught) for chunk in chunks
        ]
        ctx.saved = [saved for _, saved in results]
        ctx.chunks, ctx.weights, ctx.shape = chunks, weights, inputs.shape
        return torch.cat([losses for losses, _ in results])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        # Other embeddings are frozen: what would reach them is neither computed nor wanted.
        inputs_grad = torch.zeros(ctx.shape, dtype=ctx.weights.embedding.dtype, device=grad.device)
        parts = grad.split([len(chunk.labels.lengths) for chunk in ctx.chunks])
        for i, (chunk, part) in enumerate(zip(ctx.chunks, parts, strict=True)):
            saved, ctx.saved[i] = ctx.saved[i], None
            chunk_grad = losses_backward(part, saved, chunk.rows, chunk.labels, ctx.weights)
            if chunk.rows.grad_places is None:
                inputs_grad[chunk.tokens] = chunk_grad
            else:
                inputs_grad[chunk.tokens].index_copy_(0, chunk.rows.grad_places, chunk_grad)
        return inputs_grad, None, None
