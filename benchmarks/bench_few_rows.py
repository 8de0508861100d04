"""A few rows at a time: answers to 1 and to 8 rows, and products that a step of decoding is made of.

    pytest benchmarks/bench_few_rows.py --benchmark-only --benchmark-json=few_rows.json

Every round times each precision once, in turn. A product of a few rows can be no quicker than memory gives the matrix:
what it reads a second stands beside what torch's sum of a large tensor reads.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.bench_serve import mixed
from benchmarks.bench_trunk import Work, timed
from benchmarks.inputs import DEVICE, SIZES, checkpoint
from compt_fast.config.job import JobSettings
from compt_fast.ops.linear import FrozenLinear
from compt_fast.ops.linear_int8 import Int8Linear, Int16Linear
from compt_fast.prediction.predictor import load
from compt_fast.runs.job import named_trunk
from compt_fast.tasks.table import SUITES
from tests.helpers.serving import make_prompts

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="products of a few rows are for the CPU")
KINDS = {"fp32": (FrozenLinear, 4), "int16": (Int16Linear, 1), "int8": (Int8Linear, 1)}
BYTES = 1 << 27  # of matrices that are read in turn, so that none is still in a cache


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("size", SIZES)
def test_answers(size: str, count: int, tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    """Rows of mixed tasks, 20 tokens of a prompt each, answered by greedy decoding."""
    trunk = named_trunk(JobSettings(model=checkpoint(size, tmp_path / size), dtype="fp32", device="cpu"))
    artifact = make_prompts(tmp_path / "prompts", SUITES["mini" if size == "mini" else "glue"], trunk=trunk, length=20)
    asked = mixed(size, tmp_path, 1)[:count]
    found = {dtype: load(artifact, dtype=dtype, device="cpu") for dtype in ("fp32", "int8")}
    seconds = timed(benchmark, {dtype: lambda one=one: one.predict(asked) for dtype, one in found.items()}, 15)
    benchmark.extra_info.update(milliseconds={dtype: 1e3 * s for dtype, s in seconds.items()})


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("shape", [(768, 2304), (3072, 768)], ids=lambda shape: "x".join(map(str, shape)))
def test_products(shape: tuple[int, int], rows: int, benchmark: BenchmarkFixture) -> None:
    """GB/s of t5-base's matrices."""
    inner, columns = shape
    x, large = torch.randn(rows, inner), torch.randn(BYTES // 4)
    works: dict[str, Work] = {"sum": lambda: large.sum()}
    read = {"sum": BYTES}
    for name, (kind, size) in KINDS.items():
        own = [kind(torch.randn(columns, inner)) for _ in range(BYTES // (inner * columns * size))]
        works[name] = lambda own=own: [one(x) for one in own]  # type: ignore[misc]
        read[name] = len(own) * inner * columns * size
    seconds = timed(benchmark, works, 9)
    benchmark.extra_info["gb_per_second"] = {name: 1e-9 * read[name] / seconds[name] for name in works}
