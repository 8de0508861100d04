"""The Triton attention of packed rows against plain PyTorch.

In Triton's interpreter, where there is no GPU, in fp32 only: it computes products of bf16 wrongly.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from compt_fast.kernels.attention import attention_bwd, attention_fwd
from compt_fast.trunk.attention import attend, attend_backward
from compt_fast.trunk.batch import offsets_of
from compt_fast.trunk.rows import MASKED, Pairs

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

COMPILED = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from compt_fast.kernels import attention
names = {"span": "i32", "heads": "i32", "lse": "*fp32", "inner_sums": "*fp32", "offsets": "*i64", "bias": "*fp32"}
cases = [("*bf16", 64, 64)] + ([("*fp32", 64, 32), ("*bf16", 128, 32)] if TARGET == 80 else [])
for kernel in (attention._forward, attention._backward_queries, attention._backward_keys):
    for kind, width, block in cases:
        assert attention.block(torch.bfloat16 if kind == "*bf16" else torch.float32, width) == block
        constants = {"WIDTH": width, "PADDED": width, "BLOCK": block}
        signature = {name: "constexpr" if name in constants else names.get(name, kind) for name in kernel.arg_names}
        made = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", TARGET, 32))
        assert made.metadata.shared <= 99 * 1024, (kernel, kind, width, made.metadata.shared)
        print(kernel.fn.__name__, kind, width, made.metadata.shared)
"""


def drawn(lengths: list[int], heads: int, width: int, dtype: torch.dtype, causal: bool) -> tuple[Tensor, Pairs]:
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(sum(lengths), 3, heads, width, generator=generator)
    bias = torch.randn(heads, 2 * max(lengths) + 5, generator=generator).to(DEVICE)
    if causal:
        bias[:, bias.shape[1] // 2 + 1 :] = MASKED
    offsets = offsets_of(lengths)
    return qkv.to(DEVICE, dtype), Pairs(offsets, offsets, DEVICE, heads * width, bias)


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
    qkv, pairs = drawn(lengths, heads, width, dtype, causal)
    q, k, v = qkv.float().unbind(1)
    wanted = attend(q, k, v, pairs)
    out, lse = attention_fwd(qkv, pairs.offsets, pairs.bias, pairs.longest)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(out.float(), wanted, rtol=tolerance, atol=tolerance)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)
    wanted_grads = torch.stack(attend_backward(grad.float(), q, k, v, pairs), 1)
    found = attention_bwd(grad, qkv, out, lse, pairs.offsets, pairs.bias, pairs.longest)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted_grads, rtol=tolerance, atol=5 * tolerance)


def test_a_row_that_is_not_finite_spoils_no_other() -> None:
    qkv, pairs = drawn([3, 66, 4], 1, 16, torch.float32, causal=False)
    qkv[3:69] = torch.nan
    out, _ = attention_fwd(qkv, pairs.offsets, pairs.bias, pairs.longest)
    assert out.isfinite().all((1, 2)).tolist() == [True] * 3 + [False] * 66 + [True] * 4


@pytest.mark.parametrize("target", [80, 90, 100])
def test_the_kernels_compile_for_gpus_that_are_not_here(target: int) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILED.replace("TARGET", str(target))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == (9 if target == 80 else 3)
