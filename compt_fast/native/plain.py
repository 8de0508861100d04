"""What the compiled operators do, in plain PyTorch: what runs where there is no compiler."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def assemble(
    prompts: Tensor,
    prompt_offsets: Tensor,
    slots: Tensor,
    token_ids: Tensor,
    row_offsets: Tensor,
    embedding: Tensor,
    prepend: bool,
    total: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`compt_fast.native.assemble` without its checks: arguments and results are the same.

    Offsets and slots on a device are read by the host here, and waited for.
    """
    home = row_offsets.device
    prompt_offsets, slots, row_offsets = prompt_offsets.cpu(), slots.cpu(), row_offsets.cpu()
    starts, lengths = prompt_offsets[:-1][slots], prompt_offsets.diff()[slots]
    packed_offsets = row_offsets.clone()
    packed_offsets[1:] += lengths.cumsum(0)
    prompt_at = packed_offsets[:-1] if prepend else packed_offsets[1:] - lengths
    text_at = packed_offsets[:-1] + lengths if prepend else packed_offsets[:-1]

    packed = embedding.new_zeros(int(packed_offsets[-1]) if total is None else total, embedding.shape[1])
    at = _ranges(text_at, row_offsets.diff()).to(embedding.device)
    packed = packed.index_copy(0, at, embedding[token_ids])
    rows = _ranges(starts, lengths).to(prompts.device)
    at = _ranges(prompt_at, lengths).to(embedding.device)
    copies = _Copies.apply(prompts, rows, embedding.dtype)
    return packed.index_copy(0, at, copies), packed_offsets.to(home)


def _ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """The ranges `starts[i] ... starts[i] + lengths[i] - 1`, one after the other."""
    shift = starts - (lengths.cumsum(0) - lengths)
    return torch.repeat_interleave(shift, lengths) + torch.arange(int(lengths.sum()))


class _Copies(torch.autograd.Function):
    """`prompts[rows]` in another dtype; backwards each row's copies are summed in fp32, in order."""

    @staticmethod
    def forward(ctx: Any, prompts: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.prompts = (len(prompts), prompts.dtype)
        return prompts[rows].to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        count, dtype = ctx.prompts
        # Neither index_add nor index_put sums in a fixed order on every device.
        sums = torch.promote_types(grad.dtype, torch.float32)
        sorted_rows, order = rows.sort(stable=True)
        lengths = torch.bincount(sorted_rows, minlength=count)
        summed = torch.segment_reduce(grad.to(sums)[order], "sum", lengths=lengths, axis=0, unsafe=True)
        return summed.to(dtype), None, None


def packed_attention(qkv: Tensor, cu_seqlens: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """`compt_fast.native.packed_attention` without its checks, a row at a time, all in fp32 inside."""
    reach = bias.shape[1] // 2
    out, lse = [qkv[:0, 0]], [bias.new_empty(0, len(bias))]
    for row in qkv.split(cu_seqlens.diff().tolist()):
        q, k, v = row.permute(1, 2, 0, 3).float()
        at = torch.arange(len(row), device=bias.device)
        scores = q @ k.mT + bias[:, reach + at[None, :] - at[:, None]]
        lse.append(scores.logsumexp(-1).T.detach())
        out.append((scores.softmax(-1) @ v).transpose(0, 1).to(qkv.dtype))
    return torch.cat(out), torch.cat(lse)
