"""Single kernels on the device: how far each is from plain PyTorch, and our attention beside SDPA on padded rows."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.inputs import DEVICE
from compt_fast.kernels import adamw
from compt_fast.ops.attention import attend, attend_backward
from compt_fast.ops.varlen import VarlenLayout, cu_seqlens_of

WHILE_STARTED = 4_000_000  # cycles, some two milliseconds


def apart(found: Tensor, wanted: Tensor) -> float:
    """The length of the difference in parts of the wanted one's."""
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).norm() / wanted.norm())


def milliseconds(work: Callable[[], Any], rounds: int = 15) -> float:
    """The median by the device's own clock, after three rounds that warm up; the device is kept busy until the host has
    started all of the work, so that a launch's time on the host is not counted.
    """
    times = []
    for _ in range(rounds + 3):
        torch.cuda._sleep(WHILE_STARTED)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times[3:])


def update_error(runs: int = 2) -> float:
    """How far the update's kernels end from PyTorch's fused AdamW: the worst of parameters and moments."""
    generator = torch.Generator().manual_seed(0)

    def drawn() -> list[Tensor]:
        return [torch.randn(runs, *s, generator=generator).to(DEVICE) for s in ((3, 5, 7), (2500,), (4, 4))]

    groups = [drawn(), drawn(), drawn(), [value.square() for value in drawn()]]
    copies = [[value.clone() for value in group] for group in groups]
    same = torch.full((runs,), 0.1, dtype=torch.float64)
    healthy = torch.ones(runs, dtype=torch.bool, device=DEVICE)
    adamw.by_kernel(*groups, adamw.table_of([same] * 3, same, same, same).to(DEVICE), healthy)
    adamw.by_torch(*copies, torch.stack([same] * 6, dim=1), healthy)
    pairs = [zip(groups[i], copies[i], strict=True) for i in (0, 2, 3)]
    return max(apart(found, wanted) for pair in pairs for found, wanted in pair)


def drawn_rows(rows: int, heads: int, width: int, dtype: torch.dtype) -> tuple[Tensor, VarlenLayout]:
    """qkv (N, 3, H, c) and rows of 8 to 250 tokens around 45, with a bias."""
    generator = torch.Generator().manual_seed(rows)
    lengths = torch.randn(rows, generator=generator).mul(0.6).exp().mul(45).clamp(8, 250).long().tolist()
    cu_seqlens = cu_seqlens_of(lengths)
    qkv = torch.randn(int(cu_seqlens[-1]), 3, heads, width, generator=generator) / width**0.25
    bias = torch.randn(heads, 2 * max(lengths) - 1, generator=generator).to(DEVICE)
    device = torch.device(DEVICE)
    return qkv.to(device, dtype), VarlenLayout(cu_seqlens, cu_seqlens, device, heads * width, bias)


def attention_error(dtype: torch.dtype, rows: int = 5) -> dict[str, float]:
    """How far the attention's kernels are from batched products in fp32 on the same numbers."""
    from compt_fast.kernels.attention import attention_bwd, attention_fwd

    qkv, layout = drawn_rows(rows, 2, 64, dtype)
    q, k, v = qkv.float().unbind(1)
    out, lse = attention_fwd(qkv, layout.cu_seqlens, layout.bias, layout.max_seqlen)
    grad = torch.randn_like(out)
    found = attention_bwd(grad, qkv, out, lse, layout.cu_seqlens, layout.bias, layout.max_seqlen)
    wanted = torch.stack(attend_backward(grad.float(), q, k, v, layout), 1)
    return {"forward": apart(out, attend(q, k, v, layout)), "backward": apart(found, wanted)}


@dataclass
class Padded:
    """The same rows, padded to the longest, as SDPA takes them: bias and padding are one mask (B, H, L, L)."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor
    real: Tensor

    @classmethod
    def of(cls, qkv: Tensor, layout: VarlenLayout) -> Padded:
        lengths = layout.cu_seqlens.diff()
        place = torch.arange(layout.max_seqlen, device=qkv.device)
        real = place < lengths[:, None]
        padded = qkv.new_zeros(len(lengths), layout.max_seqlen, *qkv.shape[1:])
        padded[real] = qkv
        q, k, v = (x.transpose(1, 2).contiguous().requires_grad_() for x in padded.unbind(2))
        bias = layout.bias[:, layout.bias.shape[1] // 2 + place[None, :] - place[:, None]]
        mask = bias[None].masked_fill(~real[:, None, None, :], -torch.inf)
        return cls(q, k, v, mask.to(qkv.dtype), real)

    def forward(self) -> Tensor:
        """(B, H, L, c)."""
        return scaled_dot_product_attention(self.q, self.k, self.v, attn_mask=self.mask, scale=1.0)

    def packed(self, out: Tensor) -> Tensor:
        """The real places of a result, (N, H, c)."""
        return out.transpose(1, 2)[self.real]


def attention_times(rows: int) -> dict[str, float]:
    """Milliseconds of our attention at t5-base's width in bf16 and of SDPA's, and how far their results lie apart."""
    from compt_fast.kernels.attention import attention_bwd, attention_fwd

    qkv, layout = drawn_rows(rows, 12, 64, torch.bfloat16)
    padded = Padded.of(qkv, layout)
    theirs = padded.forward()
    out, lse = attention_fwd(qkv, layout.cu_seqlens, layout.bias, layout.max_seqlen)
    grad, their_grad, leaves = torch.randn_like(out), torch.randn_like(theirs), (padded.q, padded.k, padded.v)
    works: dict[str, Callable[[], Any]] = {
        "forward": lambda: attention_fwd(qkv, layout.cu_seqlens, layout.bias, layout.max_seqlen),
        "backward": lambda: attention_bwd(grad, qkv, out, lse, layout.cu_seqlens, layout.bias, layout.max_seqlen),
        "sdpa_forward": padded.forward,
        "sdpa_backward": lambda: torch.autograd.grad(theirs, leaves, their_grad, retain_graph=True),
    }
    found = {"tokens": len(qkv), "longest": layout.max_seqlen, "apart": apart(out, padded.packed(theirs))}
    return found | {f"{name}_ms": milliseconds(work) for name, work in works.items()}
