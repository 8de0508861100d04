"""A batch's losses from tensors whose shapes its `Bucket` alone fixes, so that their steps can be recorded once.

What differs between batches of a bucket is in one vector of integers, made on the host by `integers` and copied to
where `FixedBatch` keeps it; nothing else of a batch enters the losses. Rows are packed as `PackedTrunk` packs them, the
longest first, and end before the bucket's tokens do: the tail belongs to no row, and what stands there is left to
chance. Labels are padded to one length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from compt_fast.kernels import moved
from compt_fast.models.batch import Batch, longest_first
from compt_fast.models.t5.cross_attention import AbsorbedCrossAttention, CrossAttention, absorbing_pays
from compt_fast.models.t5.losses import EncoderRows, LabelRows, losses_backward, losses_forward
from compt_fast.models.t5.weights import Weights
from compt_fast.ops.cross_attention import SharedStates, bounded_states
from compt_fast.ops.varlen import MASKED, PaddedGroup, PaddedView, VarlenLayout, equal_cu_seqlens

if TYPE_CHECKING:
    from compt_fast.models.engines.fast import PackedTrunk

TOKEN_STEPS = 8  # sizes between a power of two and the next (ours): at most an eighth of the tokens is tail
ROW_STEPS = 2  # the same of a row's and a label's tokens, which cost less


def rounded(size: int, steps: int) -> int:
    """The smallest of the sizes `steps` an octave that is not below `size`, at least 1: all up to `steps`."""
    step = max((1 << (size - 1).bit_length()) // (2 * steps), 1)
    return -(-size // step) * step


@dataclass(frozen=True)
class Bucket:
    """The sizes of batches that are computed alike.

    `rows` B; `tokens` N of all rows, prompts and tail included; `max_seqlen` bounds a row's tokens, `max_label` a
    label's; `prompt_tokens` n are those of all rows, `prompt_rows` P the rows of all slots' prompts.
    """

    rows: int
    tokens: int
    max_seqlen: int
    max_label: int
    prompt_tokens: int
    prompt_rows: int

    @classmethod
    def of(cls, prompt_lengths: Tensor, batch: Batch) -> Bucket:
        """The bucket of a batch with labels, whose slots' prompts have `prompt_lengths` (S,)."""
        prompts = prompt_lengths[batch.slots]
        tokens = batch.input_lengths + prompts
        return cls(
            batch.rows,
            rounded(int(tokens.sum()), TOKEN_STEPS),
            rounded(int(tokens.max()), ROW_STEPS),
            rounded(int(batch.label_lengths.max()), ROW_STEPS),
            int(prompts.sum()),
            int(prompt_lengths.sum()),
        )

    @property
    def sizes(self) -> dict[str, int]:
        """How many integers say what: see `integers`."""
        return {
            "ids": self.tokens,
            "cu_seqlens": self.rows + 1,
            "prompt_places": self.prompt_tokens,
            "prompt_rows": self.prompt_tokens,
            "by_prompt_row": self.prompt_tokens,
            "copies": self.prompt_rows,
            "labels": self.rows * self.max_label,
            "label_lengths": self.rows,
            "order": self.rows,
            "inverse_order": self.rows,
        }

    def absorbs(self, weights: Weights) -> bool:
        """Whether the decoder is quickest as it is here, with absorbed keys and values; not so with long labels."""
        queries = self.rows * self.max_label
        return absorbing_pays(queries, queries * self.max_seqlen, self.tokens, weights)


def integers(bucket: Bucket, prompt_cu_seqlens: Tensor, batch: Batch, prepend: bool) -> Tensor:
    """What a batch on the CPU is in `bucket`, by the names of `Bucket.sizes`, one after the other: int64 on the CPU.

    Of the packed places `ids` (N,) are the tokens, 0 for prompts and tail; the rows have `cu_seqlens` (B+1,). Row
    `prompt_rows[i]` of the prompts goes to `prompt_places[i]` (n,); `by_prompt_row` (n,) lists these i by the prompts'
    rows, of each of which there are so many `copies` (P,). Of the `labels` (B, T) `label_lengths` (B,) are real.
    `order` (B,) is that of the rows here, by their numbers in the batch, and `inverse_order` (B,) its inverse.
    `prompt_cu_seqlens` (S+1,) are the cumulative lengths of the slots' prompts.
    """
    order = longest_first(batch.placement(prompt_cu_seqlens, prepend).lengths)
    batch = batch.take(order)
    at = batch.placement(prompt_cu_seqlens, prepend)
    ids = torch.zeros(bucket.tokens, dtype=torch.int64)
    ids[at.text_places] = batch.input_ids
    labels = torch.zeros(bucket.rows, bucket.max_label, dtype=torch.int64)
    labels[torch.arange(bucket.max_label) < batch.label_lengths[:, None]] = batch.label_ids
    parts = {
        "ids": ids,
        "cu_seqlens": at.cu_seqlens,
        "prompt_places": at.prompt_places,
        "prompt_rows": at.prompt_rows,
        "by_prompt_row": at.prompt_rows.argsort(stable=True),
        "copies": torch.bincount(at.prompt_rows, minlength=bucket.prompt_rows),
        "labels": labels.flatten(),
        "label_lengths": batch.label_lengths,
        "order": order,
        "inverse_order": order.argsort(),
    }
    assert {name: len(part) for name, part in parts.items()} == bucket.sizes
    return torch.cat([parts[name] for name in bucket.sizes])


class FixedBatch:
    """The batches of one bucket, one at a time, on the trunk's device.

    After `put`, `row_losses` reads nothing of the batch but device memory, at the same addresses each time, and waits
    for nothing.
    """

    def __init__(self, trunk: PackedTrunk, bucket: Bucket) -> None:
        self.bucket = bucket
        self.weights = weights = trunk.weights
        device, sizes = trunk.device, bucket.sizes
        self._integers = torch.zeros(sum(sizes.values()), dtype=torch.int64, device=device)
        parts = self._integers.split(list(sizes.values()))
        self.at = dict(zip(sizes, parts, strict=True))
        self._start = trunk.start_id
        self._encoder_bias = weights.encoder_bias.by_distance(bucket.max_seqlen)
        rows, max_label = bucket.rows, bucket.max_label
        each = equal_cu_seqlens(rows, max_label)
        bias = weights.decoder_bias.by_distance(max_label)
        self._label_layout = VarlenLayout(each.to(device), each.to(device), device, weights.inner, bias, max_label)
        self._asked = asked = max_label * weights.heads
        self._queries = PaddedView.of(torch.arange(rows) * asked, torch.full((rows,), asked), device)
        self._cu_seqlens_q = equal_cu_seqlens(rows, asked).to(device)
        self._numbers = torch.arange(max(bucket.max_seqlen, bucket.tokens), device=device)

    def put(self, packed: Tensor) -> None:
        """Make the batch whose `integers` these are, on the CPU, the present one."""
        self._integers.copy_(moved(packed, self._integers.device))

    def row_losses(self, flat: Tensor, input_update: Tensor | None = None) -> Tensor:
        """`PackedTrunk.row_losses` of the present batch, (B,) fp32; its prompts' rows are `flat` (P, d), any float.

        Raises `ValueError` for an update of the texts, for which nothing here has room.
        """
        if input_update is not None:
            raise ValueError("batches of fixed shapes have no room for an update of their inputs")
        losses: Tensor = _FixedLosses.apply(flat, self)
        return losses

    def label_lengths(self) -> Tensor:
        """The tokens of each row's label, (B,) int64 on the device, in the batch's own order."""
        return self.at["label_lengths"][self.at["inverse_order"]]

    def inputs(self, flat: Tensor) -> Tensor:
        """The packed embeddings (N, d); those of the tail are finite."""
        packed = F.embedding(self.at["ids"], self.weights.embedding)
        return packed.index_copy_(0, self.at["prompt_places"], flat[self.at["prompt_rows"]].to(packed.dtype))

    def encoder_rows(self) -> EncoderRows:
        """The encoder's rows."""
        cu_seqlens, device = self.at["cu_seqlens"], self._integers.device
        layout = VarlenLayout(
            cu_seqlens, cu_seqlens, device, self.weights.inner, self._encoder_bias, self.bucket.max_seqlen
        )
        return _FixedRows(layout, self.at["prompt_places"], self)

    def shared_states(self, states: Tensor) -> SharedStates:
        """The encoder's `states` (N, d) for all rows' absorbed queries."""
        bounds = self._asked, self.bucket.max_seqlen
        return bounded_states(states, self._cu_seqlens_q, self.at["cu_seqlens"], *bounds, self._group)

    def _group(self) -> PaddedGroup:
        """All rows' absorbed queries and their keys, padded to the longest row."""
        rows, max_seqlen = self.bucket.rows, self.bucket.max_seqlen
        starts, ends = self.at["cu_seqlens"][:-1, None], self.at["cu_seqlens"][1:, None]
        steps = self._numbers[:max_seqlen]
        index = torch.minimum(starts + steps, ends - 1)
        hidden = ((steps >= ends - starts) * MASKED)[:, None, None]
        # Each packed place's own in the padded rows; the tail has that of the last row's end.
        places = self._numbers[: self.bucket.tokens]
        row = torch.searchsorted(self.at["cu_seqlens"][1:-1], places, right=True)
        padded_places = row * max_seqlen + (places - self.at["cu_seqlens"][row]).clamp(max=max_seqlen - 1)
        keys = PaddedView((rows, max_seqlen), None, index, padded_places, places)
        return PaddedGroup(self._queries, keys, hidden)

    def label_rows(self) -> LabelRows:
        """The decoder's rows, all of one length."""
        ids = self.at["labels"].view(self.bucket.rows, -1)
        inputs = ids.roll(1, 1)
        inputs[:, 0].fill_(self._start)
        lengths = self.at["label_lengths"]
        real = self._numbers[: ids.shape[1]] < lengths[:, None]
        orders = self.at["order"], self.at["inverse_order"]
        return _FixedLabels(ids.flatten(), inputs.flatten(), self._label_layout, lengths, real, *orders)

    def sum_copies(self, grad: Tensor) -> Tensor:
        """The gradient (P, d) fp32 of the prompts' rows from that of their copies (n, d): summed in the rows' order."""
        ordered = grad.float()[self.at["by_prompt_row"]]
        return torch.segment_reduce(ordered, "sum", lengths=self.at["copies"], axis=0, unsafe=True)


@dataclass(frozen=True)
class _FixedRows(EncoderRows):
    fixed: FixedBatch

    def cross_attention(self, states: Tensor, labels: LabelRows, weights: Weights) -> CrossAttention:
        cu_seqlens_q, cu_seqlens_k = labels.layout.cu_seqlens_q, self.layout.cu_seqlens_k
        shared = self.fixed.shared_states(states)
        return AbsorbedCrossAttention(states, cu_seqlens_q, cu_seqlens_k, weights, shared)


@dataclass(frozen=True)
class _FixedLabels(LabelRows):
    """`real` (B, T) bool: the tokens that are no padding; `order` and `inverse_order` (B,) as `integers` has them."""

    real: Tensor
    order: Tensor
    inverse_order: Tensor

    def sum_by_row(self, losses: Tensor) -> Tensor:
        return losses.view_as(self.real).masked_fill(~self.real, 0).sum(1)[self.inverse_order]

    def scale_(self, states_grad: Tensor, grad: Tensor) -> Tensor:
        by_row = states_grad.view(*self.real.shape, -1).mul_(grad[self.order, None, None])
        return by_row.masked_fill_(~self.real[..., None], 0).flatten(0, 1)


class _FixedLosses(torch.autograd.Function):
    """The prompts' rows (P, d) -> the row losses (B,) fp32 of the batch that `fixed` holds."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, fixed: FixedBatch) -> Tensor:
        ctx.rows, ctx.labels = fixed.encoder_rows(), fixed.label_rows()
        losses, ctx.saved = losses_forward(fixed.inputs(flat), ctx.rows, ctx.labels, fixed.weights)
        ctx.fixed, ctx.dtype = fixed, flat.dtype
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        saved, ctx.saved = ctx.saved, None
        copies_grad = losses_backward(grad, saved, ctx.rows, ctx.labels, ctx.fixed.weights)
        return ctx.fixed.sum_copies(copies_grad).to(ctx.dtype), None
