"""int8 beside bf16 and fp32 on a CPU: 300 rows answered and scored, and single products.

    pytest benchmarks/bench_int8.py --benchmark-only --benchmark-json=int8.json

Every round times each precision once, in turn, so that what else the machine does meets all of them; ratios are of
medians, and `share_of_peak` is of what torch's own product of int8 reaches in the same rounds. Where the processor has
no bf16 instructions bf16 is emulated, and the ratio that counts is that to fp32. What int8 answers is held against
fp32 by `python -m tools.int8_agreement`: the checkpoints here have random weights.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.bench_trunk import Work, timed
from benchmarks.engines import Engine, opened
from benchmarks.inputs import DEVICE, SIZES
from compt_fast.ops.linear import FrozenLinear
from compt_fast.ops.linear_int8 import Int8Linear, quantise

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="int8 is for the CPU")
PRECISIONS = ("int8", "bf16", "fp32")
ROUNDS = {"mini": 7, "t5-small": 3, "t5-base": 3}
# (tokens, inner, columns): t5-base's projections of one pass over the encoder, and of a step of decoding
PRODUCTS = ((2048, 768, 2304), (2048, 768, 3072), (2048, 3072, 768), (128, 768, 2304), (128, 3072, 768))


def peak(rows: int = 1024, inner: int = 768, columns: int = 3072) -> tuple[float, Work]:
    """Operations of torch's product of int8, and the product: what shares of a peak are of."""
    x, weight = (torch.randint(-127, 128, (n, inner), dtype=torch.int8) for n in (rows, columns))
    times = 20

    def multiply() -> None:
        for _ in range(times):
            torch._int_mm(x, weight.T)

    return 2.0 * times * rows * inner * columns, multiply


def forward_operations(one: Engine) -> float:
    """Multiplications and additions of the encoder's products while `ROWS` rows are answered, about."""
    config, sets = one.job.trunk.config, one.scored  # type: ignore[attr-defined]
    width, inner = config.d_model, config.num_heads * config.d_kv
    tokens = sum(len(ids) + int(one.prompts.lengths[0]) for of in sets for ids in of.inputs)
    feed = (3 if config.is_gated_act else 2) * width * config.d_ff
    return 2.0 * config.num_layers * tokens * (4 * width * inner + feed)


@pytest.mark.parametrize("size", SIZES)
def test_scoring(size: str, tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    """300 rows with greedy decoding, sorted by length, 128 at a time, and scored: as a job evaluates."""
    found = {precision: opened(f"fast {precision}", size, tmp_path) for precision in PRECISIONS}
    for one in found.values():
        assert one.scored and one.trainer  # made before anything is timed
    cost, multiply = peak()
    works: dict[str, Work] = {name: one.evaluation for name, one in found.items()}
    seconds = timed(benchmark, works | {"product": multiply}, ROUNDS[size], warm=size == "mini")
    benchmark.extra_info.update(
        ratios={name: seconds[name] / seconds["int8"] for name in PRECISIONS},
        peak_gop_per_second=cost / seconds["product"] / 1e9,
        share_of_peak=forward_operations(found["int8"]) / seconds["int8"] / (cost / seconds["product"]),
        threads=torch.get_num_threads(),
    )


@pytest.mark.parametrize("shape", PRODUCTS, ids=lambda shape: "x".join(map(str, shape)))
def test_product(shape: tuple[int, int, int], benchmark: BenchmarkFixture) -> None:
    """One product, x rounded within it, beside fp32's, and beside torch's of what is int8 already."""
    rows, inner, columns = shape
    x, weight = torch.randn(rows, inner), torch.randn(columns, inner)
    ours, floats, whole, rounded = Int8Linear(weight), FrozenLinear(weight), quantise(x)[0], quantise(weight)[0]
    works: dict[str, Work] = {
        "int8": lambda: ours(x),
        "fp32": lambda: floats(x),
        "torch int8": lambda: torch._int_mm(whole, rounded.T),
    }
    seconds = timed(benchmark, works, 25)
    benchmark.extra_info["gop_per_second"] = {name: 2e-9 * rows * inner * columns / t for name, t in seconds.items()}
