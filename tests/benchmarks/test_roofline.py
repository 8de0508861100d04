"""The model of the machine: what a step starts, moves and multiplies, counted from its own code and checked by hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from benchmarks import costs, roofline
from benchmarks.costs import Call
from benchmarks.recorded_step import Notes, Step, recorded
from benchmarks.roofline import LAUNCH, PUBLISHED, Limits
from compt_fast.kernels import attention, launching, norms
from compt_fast.kernels.cross_attention import Rows, products, softmax
from compt_fast.models.t5.fixed import Bucket
from compt_fast.ops.varlen import cu_seqlens_of

OF_CUBLAS = 25  # sums of products that it splits, by the profile of the H100
OF_TORCH = 10  # launches of the profile's that are neither listed in it nor operators: memory that operators clear
MERGED = {"_forward": "_forward", "_norm": "_forward", "_norm_backward": "_backward", "_weighted_sum": "_mixed"}
"""What the profile calls kernels that have names of their own since."""


def small_step() -> Step:
    """A product with its relu, a sum of two rows, a norm, attention of rows of 3 and 5 tokens, cross-attention of 2 and
    4 queries.
    """
    with launching.recorded() as launches, Notes() as notes:
        cu_seqlens, cu_seqlens_q = (cu_seqlens_of(lengths).to("meta") for lengths in ([3, 5], [2, 4]))
        x, w = (torch.empty(*size, dtype=torch.bfloat16, device="meta") for size in ((8, 96), (96, 64)))
        bias = torch.empty(2, 9, device="meta")
        notes.operators.clear()
        y = (x @ w).relu_()
        (y.view(2, 256)[0] + y.view(2, 256)[1]).detach()
        norms.rms_norm(y, 1e-6)
        attention.attention_fwd(x.view(8, 3, 2, 16), cu_seqlens, bias, 5)
        rows = Rows(cu_seqlens_q, cu_seqlens, 4, 5, torch.bfloat16)
        softmax(products(y[:6], y, rows), rows)
    return Step(1, 2, 8, Bucket(2, 8, 5, 1, 0, 0), notes.operators, launches, notes)


def test_bytes_and_operations_of_a_small_step_by_hand() -> None:
    pairs = 2 * 3 + 4 * 5
    assert list(costs.calls(small_step())) == [
        Call("products", "mm", "8x96x64", 2 * (8 * 96 + 96 * 64 + 8 * 64), 2 * 8 * 96 * 64),
        Call("elementwise and other", "relu_", "8x64", 2 * 2 * 8 * 64, 0),
        Call("elementwise and other", "add", "256", 3 * 2 * 256, 0),
        Call("attention and norms", "_norm", "8x64", 2 * 2 * 8 * 64 + 4 * 8, 0),
        # q, k, v and the result; each query's two sums; the bias. Two products of 16 a pair and head.
        Call("attention and norms", "_forward", "8x3x2x16", 2 * 8 * 4 * 32 + 4 * 8 * 2 * 2 + 4 * 18, 4 * 34 * 32),
        Call("cross-attention", "_products", "6x64", 2 * 6 * 64 + 2 * 8 * 64 + 4 * pairs, 2 * pairs * 64),
        Call("cross-attention", "_softmax", "6x64", 6 * pairs, 0),
    ]


def test_the_least_time_is_that_of_what_is_slowest() -> None:
    limits = Limits(1e12, 100e12)
    assert limits.least(Call("", "", "", 4e6, 0)) == pytest.approx(4e-6)
    assert limits.least(Call("", "", "", 4e6, 1e9)) == pytest.approx(1e-5)
    assert limits.least(Call("", "", "", 8, 8)) == LAUNCH


def test_lengths_that_nobody_knows_are_refused() -> None:
    with pytest.raises(ValueError, match="did not come from the host"):
        small_step().lengths(torch.empty(3, dtype=torch.int64, device="meta"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Step:
    return recorded("t5-base", 1, tmp_path_factory.mktemp("roofline"))


def test_a_step_starts_what_was_counted_on_a_gpu(base: Step) -> None:
    """One replayed run started 699 kernels on an H100."""
    profile = roofline.results("H100")["profile_replayed"]["replayed bf16, 1 runs"]
    counted = {name: count for name, count, _ in profile["kernels"]}
    own = Counter(launch.kernel.fn.__name__ for launch in base.launches)
    renamed = Counter[str]()
    for name, count in own.items():
        renamed[MERGED.get(name, name)] += count
    unlisted = {"backward_prompts"}  # among those that took least
    assert {name: counted.get(name) for name in renamed if name not in unlisted} == {
        name: count for name, count in renamed.items() if name not in unlisted
    }
    calls = list(costs.calls(base))
    listed = sum(count for name, count in counted.items() if name.startswith("nvjet"))
    assert 0 <= sum(call.kind == costs.PRODUCTS for call in calls) - listed <= 2
    split = sum(count for name, count in counted.items() if "splitKreduce" in name)
    assert split == OF_CUBLAS and len(calls) + OF_CUBLAS + OF_TORCH == profile["launches"]


def test_a_steps_products_by_hand(base: Step) -> None:
    """Of t5-base's shape, by layers: what a forward multiplies, and a backward with frozen weights once more."""
    bucket, d, inner, hidden, heads, head = base.bucket, 768, 768, 3072, 12, 64
    tokens, labels = bucket.tokens, bucket.rows * bucket.max_label
    layer = d * 3 * inner + inner * d + 2 * d * hidden
    encoder = 2 * 12 * tokens * layer - (tokens - bucket.prompt_tokens) * d * 3 * inner
    # Cross-attention: queries and result, and each head's matrices on either side. The first layer's self-attention,
    # and what comes before its cross-attention, have no backward.
    cross = 2 * d * inner + 2 * heads * head * d
    decoder = 12 * labels * (2 * (layer + cross)) - labels * (4 * d * inner + d * inner)
    head_twice = 2 * labels * d * 32128
    calls = list(costs.calls(base))
    found = sum(call.operations for call in calls if call.kind == costs.PRODUCTS)
    assert found == 2 * (encoder + decoder + head_twice)
    least = sum(PUBLISHED["H100"].least(call) for call in calls)
    measured = roofline.measured_of(1)["H100"] / 1e3
    assert LAUNCH * len(calls) < least < measured


def test_the_report_that_is_kept_is_of_what_is_counted(base: Step) -> None:
    kept = json.loads((Path(roofline.RESULTS) / "roofline-2026-11-27.json").read_text())
    assert set(kept["steps"]) == {"1", "3", "9", "27", "108"}
    assert kept["steps"]["1"]["launches"] == len(list(costs.calls(base)))
    for gpu, of in PUBLISHED.items():
        assert kept["limits"][gpu] == of._asdict()
    for step in kept["steps"].values():
        assert sum(kind["launches"] for kind in step["kinds"].values()) == step["launches"]
        least = sum(kind["least_ms"]["H200"] for kind in step["kinds"].values())
        assert least == pytest.approx(step["least_ms"]["H200"], abs=1e-3)
