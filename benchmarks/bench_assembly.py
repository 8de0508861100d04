"""The assembly operator against a copy of as many bytes, and against plain PyTorch.

    pytest benchmarks/bench_assembly.py --benchmark-only

t5-base's table (bf16) and fp32 prompts of 10 tokens; 16 rows a run and 8 tasks a run, 1 to 27 runs; rows of
8 to 250 tokens around 45. Results are compared with plain PyTorch's before anything is timed. In
`extra_info`: bytes read and written, GB/s, `of_copy` (time over that of a `clone` that moves as many bytes,
into new memory as the operator's result is; 1.5 is asked) and `of_plain` (plain PyTorch's time over ours).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from torch.utils import benchmark as timing

from compt_fast import native
from compt_fast.ops import assembly

WIDTH, VOCABULARY, PROMPT, TASKS, ROWS = 768, 32128, 10, 8, 16
SECONDS = 1.0  # spent on each of the two others


def arguments(runs: int, device: str) -> dict[str, Any]:
    """A fleet's batch on `device`, with cu_seqlens and slots there too."""
    generator = torch.Generator().manual_seed(runs)
    rows, slots = ROWS * runs, TASKS * runs
    lengths = torch.randn(rows, generator=generator).mul(0.6).exp().mul(45).clamp(8, 250).long()
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    slot = torch.randint(slots, (rows,), generator=generator)
    made: dict[str, Any] = {
        "prompts": torch.randn(slots * PROMPT, WIDTH, generator=generator),
        "prompt_cu_seqlens": torch.arange(slots + 1) * PROMPT,
        "slots": slot,
        "token_ids": torch.randint(VOCABULARY, (int(cu_seqlens[-1]),), generator=generator),
        "input_cu_seqlens": cu_seqlens,
        "embedding": torch.randn(VOCABULARY, WIDTH, generator=generator).bfloat16(),
    }
    made = {name: value.to(device) for name, value in made.items()}
    return made | {"prepend": True, "total": int(cu_seqlens[-1]) + rows * PROMPT}


def median(run: Callable[[], Any]) -> float:
    """Seconds."""
    threads = torch.get_num_threads()
    return float(
        timing.Timer("run()", globals={"run": run}, num_threads=threads).blocked_autorange(min_run_time=SECONDS).median
    )


def forward(how: Callable[..., tuple[Tensor, Tensor]], given: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        return how(**given)[0]


def backward(how: Callable[..., tuple[Tensor, Tensor]], given: dict[str, Any], grad: Tensor) -> Callable[[], Tensor]:
    """The backward alone, again and again over one forward."""
    prompts = given["prompts"].detach().clone().requires_grad_()
    packed, _ = how(**given | {"prompts": prompts})
    return lambda: torch.autograd.grad(packed, prompts, grad, retain_graph=True)[0]


def timed(benchmark: BenchmarkFixture, ours: Callable[[], Any], theirs: Callable[[], Any], size: int, on: str) -> None:
    """Time `ours`, which reads and writes `size` bytes; note it beside `theirs` and beside a copy."""

    def finished() -> None:
        ours()
        if on == "cuda":
            torch.cuda.synchronize()

    benchmark(finished)
    mine = benchmark.stats.stats.median
    half = torch.zeros(size // 2, dtype=torch.uint8, device=on)
    benchmark.extra_info.update(
        bytes=size,
        gb_per_second=round(size / mine / 1e9, 2),
        of_copy=round(mine / median(half.clone), 2),
        of_plain=round(median(theirs) / mine, 2),
    )


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    assert native.load(), native.status().why
    return str(request.param)


@pytest.mark.parametrize("runs", [1, 3, 9, 27])
def test_forward(runs: int, device: str, benchmark: BenchmarkFixture) -> None:
    given = arguments(runs, device)
    operator = torch.ops.compt_fast.assemble
    packed = forward(operator, given)
    assert torch.equal(packed, forward(assembly.formula, given))
    prompts = PROMPT * len(given["slots"])
    size = 2 * packed.nbytes + prompts * WIDTH * (given["prompts"].itemsize - packed.itemsize)
    timed(benchmark, lambda: forward(operator, given), lambda: forward(assembly.formula, given), size, device)


@pytest.mark.parametrize("runs", [1, 27])
def test_backward(runs: int, device: str, benchmark: BenchmarkFixture) -> None:
    given = arguments(runs, device)
    operator = torch.ops.compt_fast.assemble
    grad = torch.randn(given["total"], WIDTH, device=device).bfloat16()
    ours, theirs = backward(operator, given, grad), backward(assembly.formula, given, grad)
    torch.testing.assert_close(ours(), theirs())
    size = PROMPT * len(given["slots"]) * WIDTH * grad.itemsize + given["prompts"].nbytes
    timed(benchmark, ours, theirs, size, device)
