"""A batch's losses from tensors whose shapes its `Bucket` alone fixes, so that their steps can be recorded once.

What differs between batches of a bucket is in one vector of integers, made on the host by `integers` and copied to
where `FixedBatch` keeps it; nothing else of a batch enters the losses. Rows are packed as `PackedTrunk` packs them, the
longest first, and end before the bucket's tokens do: the tail belongs to no row, and what stands there is left to
chance. Targets are padded to one length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from compt_fast.kernels import moved
from compt_fast.models.batch import Batch, longest_first, offsets_of, spread
from compt_fast.models.t5.cross_attention import Carried, Reading, carrying_pays
from compt_fast.models.t5.layout import MASKED, Group, Pairs, Side, equal_offsets
from compt_fast.models.t5.trunk import Layout, PackedTrunk, Targets, losses_and_way, prompts_gradient
from compt_fast.models.t5.weights import Weights

TOKEN_STEPS = 8  # sizes between a power of two and the next (ours): at most an eighth of the tokens is tail
ROW_STEPS = 2  # the same of a row's and a target's tokens, which cost less


def rounded(size: int, steps: int) -> int:
    """The smallest of the sizes `steps` an octave that is not below `size`, at least 1: all up to `steps`."""
    step = max((1 << (size - 1).bit_length()) // (2 * steps), 1)
    return -(-size // step) * step


@dataclass(frozen=True)
class Bucket:
    """The sizes of batches that are computed alike.

    `rows` B; `tokens` N of all rows, prompts and tail included; `longest` bounds a row's tokens, `target` a target's;
    `copies` n are the prompt tokens of all rows, `prompts` P the rows of all slots' prompts.
    """

    rows: int
    tokens: int
    longest: int
    target: int
    copies: int
    prompts: int

    @classmethod
    def of(cls, lengths: Tensor, batch: Batch) -> Bucket:
        """The bucket of a batch with targets, whose slots' prompts have `lengths` (S,)."""
        prompts = lengths[batch.slots]
        tokens = batch.source_lengths + prompts
        return cls(
            batch.rows,
            rounded(int(tokens.sum()), TOKEN_STEPS),
            rounded(int(tokens.max()), ROW_STEPS),
            rounded(int(batch.target_lengths.max()), ROW_STEPS),
            int(prompts.sum()),
            int(lengths.sum()),
        )

    @property
    def sizes(self) -> dict[str, int]:
        """How many integers say what: see `integers`."""
        return {
            "ids": self.tokens,
            "offsets": self.rows + 1,
            "places": self.copies,
            "copied": self.copies,
            "by_prompt": self.copies,
            "times": self.prompts,
            "targets": self.rows * self.target,
            "lengths": self.rows,
            "order": self.rows,
            "back": self.rows,
        }

    def carried(self, weights: Weights) -> bool:
        """Whether the decoder reads best as it does here, by carrying its queries; not so with long targets."""
        asked = self.rows * self.target
        return carrying_pays(asked, asked * self.longest, self.tokens, weights)


def integers(bucket: Bucket, prompts: Tensor, batch: Batch, prepend: bool) -> Tensor:
    """What a batch on the CPU is in `bucket`, by the names of `Bucket.sizes`, one after the other: int64 on the CPU.

    Of the packed places `ids` (N,) are the tokens, 0 for prompts and tail; rows begin and end at `offsets` (B+1,).
    Row `copied[i]` of the prompts goes to `places[i]` (n,); `by_prompt` (n,) lists these i by the prompts' rows, each
    of which is copied `times` (P,). Of the targets `targets` (B, T) are the tokens and `lengths` (B,) the real ones.
    `order` (B,) is the rows' own, and `back` (B,) its inverse. `prompts` (S+1,) are the prompts' offsets.
    """
    own = prompts.diff()[batch.slots]
    order = longest_first(batch.source_lengths + own)
    batch, own = batch.take(order), own[order]
    offsets = offsets_of(batch.source_lengths + own)
    starts = offsets[:-1] if prepend else offsets[1:] - own
    texts = offsets[:-1] + own if prepend else offsets[:-1]
    ids = torch.zeros(bucket.tokens, dtype=torch.int64)
    ids[spread(texts, batch.source_lengths)] = batch.source_ids
    copied = spread(prompts[batch.slots], own)
    targets = torch.zeros(bucket.rows, bucket.target, dtype=torch.int64)
    targets[torch.arange(bucket.target) < batch.target_lengths[:, None]] = batch.target_ids
    found = {
        "ids": ids,
        "offsets": offsets,
        "places": spread(starts, own),
        "copied": copied,
        "by_prompt": copied.argsort(stable=True),
        "times": torch.bincount(copied, minlength=bucket.prompts),
        "targets": targets.flatten(),
        "lengths": batch.target_lengths,
        "order": order,
        "back": order.argsort(),
    }
    assert {name: len(part) for name, part in found.items()} == bucket.sizes
    return torch.cat([found[name] for name in bucket.sizes])


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
        self._encoder_bias = weights.encoder_bias.by_distance(bucket.longest)
        rows, target = bucket.rows, bucket.target
        each = equal_offsets(rows, target)
        bias = weights.decoder_bias.by_distance(target)
        self._own = Pairs(each.to(device), each.to(device), device, weights.inner, bias, target)
        asked = target * weights.heads
        self._queries = Side.of(torch.arange(rows) * asked, torch.full((rows,), asked), device)
        self._numbers = torch.arange(max(bucket.longest, bucket.tokens), device=device)

    def put(self, found: Tensor) -> None:
        """Make the batch whose `integers` these are, on the CPU, the present one."""
        self._integers.copy_(moved(found, self._integers.device))

    def row_losses(self, flat: Tensor) -> Tensor:
        """`PackedTrunk.row_losses` of the present batch, (B,) fp32; its prompts' rows are `flat` (P, d), any float."""
        losses: Tensor = _FixedLosses.apply(flat, self)
        return losses

    def target_lengths(self) -> Tensor:
        """The tokens of each row's target, (B,) int64 on the device, in the batch's own order."""
        return self.at["lengths"][self.at["back"]]

    def inputs(self, flat: Tensor) -> Tensor:
        """The packed embeddings (N, d); those of the tail are finite."""
        packed = F.embedding(self.at["ids"], self.weights.embedding)
        return packed.index_copy_(0, self.at["places"], flat[self.at["copied"]].to(packed.dtype))

    def layout(self) -> Layout:
        """The encoder's rows."""
        offsets, device = self.at["offsets"], self._integers.device
        pairs = Pairs(offsets, offsets, device, self.weights.inner, self._encoder_bias, self.bucket.longest)
        return _FixedLayout(pairs, self.at["places"], self._group())

    def _group(self) -> Group:
        """All rows' carried queries and their keys, padded to the longest row."""
        rows, longest = self.bucket.rows, self.bucket.longest
        starts, ends = self.at["offsets"][:-1, None], self.at["offsets"][1:, None]
        steps = self._numbers[:longest]
        index = torch.minimum(starts + steps, ends - 1)
        hidden = ((steps >= ends - starts) * MASKED)[:, None, None]
        # Each packed place's own in the padded rows; the tail has that of the last row's end.
        places = self._numbers[: self.bucket.tokens]
        row = torch.searchsorted(self.at["offsets"][1:-1], places, right=True)
        kept = row * longest + (places - self.at["offsets"][row]).clamp(max=longest - 1)
        return Group(self._queries, Side((rows, longest), None, index, kept, places), hidden)

    def targets(self) -> Targets:
        """The decoder's rows, all of one length."""
        ids = self.at["targets"].view(self.bucket.rows, -1)
        inputs = ids.roll(1, 1)
        inputs[:, 0].fill_(self._start)
        lengths = self.at["lengths"]
        real = self._numbers[: ids.shape[1]] < lengths[:, None]
        return _FixedTargets(
            ids.flatten(), inputs.flatten(), self._own, lengths, real, self.at["order"], self.at["back"]
        )

    def gathered(self, grad: Tensor) -> Tensor:
        """The gradient (P, d) fp32 of the prompts' rows from that of their copies (n, d): summed in the rows' order."""
        ordered = grad.float()[self.at["by_prompt"]]
        return torch.segment_reduce(ordered, "sum", lengths=self.at["times"], axis=0, unsafe=True)


@dataclass(frozen=True)
class _FixedLayout(Layout):
    group: Group

    def reading(self, states: Tensor, targets: Targets, weights: Weights) -> Reading:
        return Carried(states, targets.own.q_offsets, self.pairs.k_offsets, weights, [self.group])


@dataclass(frozen=True)
class _FixedTargets(Targets):
    """`real` (B, T) bool: the tokens that are no padding; `order` and `back` (B,) as `integers` has them."""

    real: Tensor
    order: Tensor
    back: Tensor

    def summed(self, losses: Tensor) -> Tensor:
        return losses.view_as(self.real).masked_fill(~self.real, 0).sum(1)[self.back]

    def weighed_(self, slopes: Tensor, grad: Tensor) -> Tensor:
        by_row = slopes.view(*self.real.shape, -1).mul_(grad[self.order, None, None])
        return by_row.masked_fill_(~self.real[..., None], 0).flatten(0, 1)


class _FixedLosses(torch.autograd.Function):
    """The prompts' rows (P, d) -> the row losses (B,) fp32 of the batch that `fixed` holds."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, fixed: FixedBatch) -> Tensor:
        ctx.layout, ctx.targets = fixed.layout(), fixed.targets()
        losses, ctx.way = losses_and_way(fixed.inputs(flat), ctx.layout, ctx.targets, fixed.weights)
        ctx.fixed, ctx.dtype = fixed, flat.dtype
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        way, ctx.way = ctx.way, None
        copies = prompts_gradient(grad, way, ctx.layout, ctx.targets, ctx.fixed.weights)
        return ctx.fixed.gathered(copies).to(ctx.dtype), None
