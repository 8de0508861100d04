"""Assembly of the encoder's packed input: each row's target prompt and the embeddings of its tokens, side by side."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compt_fast.kernels import moved
from compt_fast.ops.paths import COMPILED, path
from compt_fast.ops.placement import Placement


def assemble(
    prompts: Tensor,
    prompt_cu_seqlens: Tensor,
    slots: Tensor,
    token_ids: Tensor,
    text_cu_seqlens: Tensor,
    embedding: Tensor,
    prepend: bool,
    total: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The packed input (total, d), in `embedding`'s dtype, and its rows' cumulative lengths (B+1,).

    `prompts` (P, d), any float dtype; `prompt_cu_seqlens` (S+1,) int64, those of the slots' prompts; `slots` (B,)
    int64, each row's; `token_ids` (N,) int64; `text_cu_seqlens` (B+1,) int64, those of the rows' tokens; `embedding`
    (V, d), frozen. `compt_fast.native` says what may lie where. Differentiable in `prompts`: the gradients of a
    prompt's copies are summed in fp32, in the rows' order. Raises ValueError, naming the argument, for what does not
    fit.
    """
    compiled = path("assembly", prompts) == COMPILED
    how = torch.ops.compt_fast.assemble if compiled else formula
    return how(prompts, prompt_cu_seqlens, slots, token_ids, text_cu_seqlens, embedding, prepend, total)


def formula(
    prompts: Tensor,
    prompt_cu_seqlens: Tensor,
    slots: Tensor,
    token_ids: Tensor,
    input_cu_seqlens: Tensor,
    embedding: Tensor,
    prepend: bool,
    total: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`assemble` in plain PyTorch, without its checks; the arguments have the extension's names.

    What lies on a device and says where rows begin is read by the host here, and waited for.
    """
    at = Placement.packed(prompt_cu_seqlens.cpu(), slots.cpu(), input_cu_seqlens.cpu().diff(), prepend)
    packed = embedding.new_zeros(int(at.cu_seqlens[-1]) if total is None else total, embedding.shape[1])
    packed = packed.index_copy(0, moved(at.text_places, embedding.device), embedding[token_ids])
    copies = _Copies.apply(prompts, moved(at.prompt_rows, prompts.device), embedding.dtype)
    packed = packed.index_copy(0, moved(at.prompt_places, embedding.device), copies)
    return packed, at.cu_seqlens.to(input_cu_seqlens.device)


class _Copies(torch.autograd.Function):
    """`prompts[rows]` in another dtype; in the backward each row's copies are summed in fp32, in order."""

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
        sum_dtype = torch.promote_types(grad.dtype, torch.float32)
        sorted_rows, order = rows.sort(stable=True)
        lengths = torch.bincount(sorted_rows, minlength=count)
        summed = torch.segment_reduce(grad.to(sum_dtype)[order], "sum", lengths=lengths, axis=0, unsafe=True)
        return summed.to(dtype), None, None
