"""The Triton attention of packed rows against plain PyTorch.

In Triton's interpreter, where there is no GPU, in fp32 only: it computes products of bf16 wrongly.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from compt_fast.kernels import attention
from compt_fast.kernels.attention import Tile, attention_bwd, attention_fwd, backward_tile, forward_tile
from compt_fast.kernels.launching import assuming
from compt_fast.ops.attention import attend, attend_backward
from compt_fast.ops.varlen import MASKED, VarlenLayout, cu_seqlens_of
from tests.helpers import large_scores

AT_MOST = large_scores.AT_MOST
ON_A_GPU = large_scores.ON_A_GPU if torch.cuda.is_available() else AT_MOST
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# Those of bf16, which the interpreter, that takes fp32 alone, does not come to by itself.
TILES = [] if torch.cuda.is_available() else [Tile(32, 3), Tile(64, 1)]


def drawn(lengths: list[int], heads: int, width: int, dtype: torch.dtype, causal: bool) -> tuple[Tensor, VarlenLayout]:
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(sum(lengths), 3, heads, width, generator=generator)
    bias = torch.randn(heads, 2 * max(lengths) + 5, generator=generator).to(DEVICE)
    if causal:
        bias[:, bias.shape[1] // 2 + 1 :] = MASKED
    cu_seqlens = cu_seqlens_of(lengths)
    return qkv.to(DEVICE, dtype), VarlenLayout(cu_seqlens, cu_seqlens, DEVICE, heads * width, bias)


CASES = [
    ([5], 1, 16, False),
    ([1, 70, 3, 64], 2, 8, False),
    ([130, 7], 1, 24, False),
    ([1, 2, 66], 2, 16, True),
]


@pytest.mark.parametrize(("lengths", "heads", "width", "causal"), CASES)
@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)], ids=["fp32", "bf16"]
)
def test_attention_and_its_gradient(
    lengths: list[int], heads: int, width: int, causal: bool, dtype: torch.dtype
) -> None:
    qkv, layout = drawn(lengths, heads, width, dtype, causal)
    q, k, v = qkv.float().unbind(1)
    wanted = attend(q, k, v, layout)
    out, lse = attention_fwd(qkv, layout.cu_seqlens, layout.bias, layout.max_seqlen)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(out.float(), wanted, rtol=tolerance, atol=tolerance)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)
    wanted_grads = torch.stack(attend_backward(grad.float(), q, k, v, layout), 1)
    found = attention_bwd(grad, qkv, out, lse, layout.cu_seqlens, layout.bias, layout.max_seqlen)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted_grads, rtol=tolerance, atol=5 * tolerance)


@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize(("lengths", "heads", "width", "causal"), CASES[1::2])
def test_every_size_of_a_tile(
    tile: Tile, lengths: list[int], heads: int, width: int, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for which in ("forward_tile", "backward_tile"):
        monkeypatch.setattr(attention, which, lambda qkv: tile)
    test_attention_and_its_gradient(lengths, heads, width, causal, torch.float32)


@pytest.mark.parametrize(
    ("capability", "dtype", "width", "backward"),
    [
        (80, torch.bfloat16, 64, Tile(32, 3)),
        (89, torch.bfloat16, 64, Tile(32, 3)),
        (90, torch.bfloat16, 64, Tile(64, 1)),
        (100, torch.bfloat16, 48, Tile(64, 1)),
        (120, torch.bfloat16, 64, Tile(32, 3)),
        (90, torch.bfloat16, 128, Tile(32, 3)),
        (90, torch.float32, 64, Tile(16, 3)),
    ],
)
def test_a_tile_is_as_large_as_the_gpus_registers_allow(
    capability: int, dtype: torch.dtype, width: int, backward: Tile
) -> None:
    qkv = torch.empty(4, 3, 2, width, dtype=dtype, device="meta")
    with assuming(capability):
        assert backward_tile(qkv) == backward
        assert forward_tile(qkv) == (Tile(64, 2) if dtype == torch.bfloat16 and width <= 64 else Tile(32, 3))


@pytest.mark.gpu
def test_a_gpus_own_capability_counts() -> None:
    qkv = torch.empty(4, 3, 2, 64, dtype=torch.bfloat16, device=DEVICE)
    assert backward_tile(qkv).side == (64 if torch.cuda.get_device_capability()[0] in (9, 10, 11) else 32)


@pytest.mark.parametrize("score", [0, 100, 200])
@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)], ids=["fp32", "bf16"]
)
def test_large_scores_round_as_in_torch(score: float, dtype: torch.dtype) -> None:
    qkv, bias, grad = (x.to(DEVICE) for x in large_scores.self_attention(90, 2, 64, score))
    qkv, grad, cu_seqlens = qkv.to(dtype), grad.to(dtype), cu_seqlens_of([90]).to(DEVICE)
    out, sums = attention_fwd(qkv, cu_seqlens, bias, 90)
    found = out, attention_bwd(grad, qkv, out, sums, cu_seqlens, bias, 90)

    def formula(qkv: Tensor) -> Tensor:
        return large_scores.attended(qkv, bias)

    assert max(large_scores.errors(formula, (qkv,), grad, found)) < (ON_A_GPU if dtype == torch.float32 else AT_MOST)


def test_a_row_that_is_not_finite_spoils_no_other() -> None:
    qkv, layout = drawn([3, 66, 4], 1, 16, torch.float32, causal=False)
    qkv[3:69] = torch.nan
    out, _ = attention_fwd(qkv, layout.cu_seqlens, layout.bias, layout.max_seqlen)
    assert out.isfinite().all((1, 2)).tolist() == [True] * 3 + [False] * 66 + [True] * 4
