"""Batches in tensors of fixed shapes against the same batches packed to their own sizes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from compt_fast.models.batch import Batch, TargetPrompts, make_batch
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.models.t5.fixed import ROW_STEPS, TOKEN_STEPS, Bucket, FixedBatch, integers, rounded
from compt_fast.ops.varlen import cu_seqlens_of
from tests.helpers.recording import Recording, Unlawful, as_on_a_gpu, lawful, quick_attention
from tests.helpers.tiny_t5 import make_t5

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Losses and gradients; on a GPU products round by their batch.
CLOSE = [{"rtol": 1e-5, "atol": 1e-5}, {"rtol": 1e-4, "atol": 1e-5}]
if DEVICE.type == "cuda":
    CLOSE = [{"rtol": 1e-4, "atol": 1e-4}, {"rtol": 1e-3, "atol": 1e-4}]


@pytest.fixture(scope="module", params=[("t5", "prepend"), ("v1.1", "append")], ids=["t5", "v1.1 appended"])
def trunk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PackedTrunk:
    family, position = request.param
    folder = make_t5(tmp_path_factory.mktemp("trunk"), family)
    return PackedTrunk.load(str(folder), dtype=torch.float32, device=DEVICE, prompt_position=position)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU, its attention's kernels aside."""
    as_on_a_gpu(monkeypatch)
    quick_attention(monkeypatch)


def drawn_batch(lengths: Sequence[int], slots: Sequence[int], seed: int = 0, label: int | None = None) -> Batch:
    rng = random.Random(seed)
    labels = [[rng.randrange(3, 90) for _ in range(label or rng.randint(1, 5))] + [1] for _ in lengths]
    return make_batch([[rng.randrange(3, 90) for _ in range(n)] for n in lengths], labels, slots)


def drawn_prompts(lengths: Sequence[int], trunk: PackedTrunk, seed: int = 0) -> TargetPrompts:
    flat = torch.randn(sum(lengths), trunk.d_model, generator=torch.Generator().manual_seed(seed))
    return TargetPrompts(flat.to(trunk.device).requires_grad_(), cu_seqlens_of(lengths))


def with_gradient(losses: Tensor, prompts: TargetPrompts) -> tuple[Tensor, Tensor]:
    weights = torch.linspace(0.5, 2, len(losses), device=losses.device)
    (grad,) = torch.autograd.grad((losses * weights).sum(), prompts.flat)
    return losses.detach(), grad


def put(fixed: FixedBatch, trunk: PackedTrunk, prompts: TargetPrompts, batch: Batch) -> None:
    fixed.put(integers(fixed.bucket, prompts.cu_seqlens, batch, trunk.prepend))


def fixed_for(trunk: PackedTrunk, prompts: TargetPrompts, batch: Batch) -> FixedBatch:
    fixed = FixedBatch(trunk, Bucket.of(prompts.lengths, batch))
    put(fixed, trunk, prompts, batch)
    return fixed


def check(trunk: PackedTrunk, prompts: TargetPrompts, batch: Batch) -> FixedBatch:
    wanted = with_gradient(trunk.row_losses(prompts, batch), prompts)
    fixed = fixed_for(trunk, prompts, batch)
    found = with_gradient(fixed.row_losses(prompts.flat), prompts)
    torch.testing.assert_close(found[0], wanted[0], **CLOSE[0])
    torch.testing.assert_close(found[1], wanted[1], **CLOSE[1])
    assert found[1].abs().max() > 0
    assert torch.equal(fixed.label_lengths().cpu(), batch.label_lengths)
    return fixed


CASES = [
    [1],
    [200],
    [1, 1, 1, 1],
    [7, 13, 31, 2, 61, 1, 3],
    [24] * 5,
    [1, 150, 2],
    [40, 3, 3, 90, 17, 8, 60, 33, 5, 1, 12, 75, 22, 9, 48, 30],
]


@pytest.mark.parametrize("lengths", CASES, ids=lambda lengths: "-".join(map(str, lengths))[:20])
def test_losses_and_gradients_are_those_of_packed_rows(trunk: PackedTrunk, gpu: None, lengths: list[int]) -> None:
    slots = [row * 5 % 3 for row in range(len(lengths))]
    check(trunk, drawn_prompts([4, 1, 6], trunk), drawn_batch(lengths, slots, seed=len(lengths)))


def test_of_200_rows(trunk: PackedTrunk, gpu: None) -> None:
    rng = random.Random(1)
    lengths = [rng.choice([1, 2, 3, 5, 8, 13, 21]) for _ in range(200)]
    slots = [rng.randrange(9) for _ in lengths]  # slot 8's prompt may be long, and slot 9 is nobody's
    check(trunk, drawn_prompts([2] * 8 + [11, 3], trunk), drawn_batch(lengths, slots))


@pytest.mark.parametrize(("text", "tail"), [(512 - 4, 0), (513 - 4, 63)])
def test_of_a_full_bucket_and_of_one_with_the_longest_tail(trunk: PackedTrunk, gpu: None, text: int, tail: int) -> None:
    batch = drawn_batch([text // 2, text - text // 2], [0, 0])
    fixed = check(trunk, drawn_prompts([2], trunk), batch)
    assert fixed.bucket.tokens - batch.input_tokens - 4 == tail


@pytest.mark.slow
def test_by_the_kernels_themselves(trunk: PackedTrunk, monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_a_gpu(monkeypatch)
    check(trunk, drawn_prompts([3, 2], trunk), drawn_batch([9, 1, 40], [0, 1, 1]))


def test_in_bf16(tmp_path: Path, gpu: None) -> None:
    folder = make_t5(tmp_path / "trunk", "v1.1")
    trunk = PackedTrunk.load(str(folder), dtype=torch.bfloat16, device=DEVICE, prompt_position="prepend")
    prompts, batch = drawn_prompts([3, 2], trunk), drawn_batch([9, 1, 40, 17], [0, 1, 1, 0])
    wanted = with_gradient(trunk.row_losses(prompts, batch), prompts)
    found = with_gradient(fixed_for(trunk, prompts, batch).row_losses(prompts.flat), prompts)
    assert found[0].dtype == found[1].dtype == torch.float32
    torch.testing.assert_close(found[0], wanted[0], rtol=2e-2, atol=2e-2)
    scale = wanted[1].abs().max().item()
    torch.testing.assert_close(found[1], wanted[1], rtol=5e-2, atol=5e-2 * scale)


def test_what_stands_in_the_tail_reaches_nothing(
    trunk: PackedTrunk, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, batch = drawn_prompts([3, 2], trunk), drawn_batch([70, 1, 40, 9], [0, 1, 1, 0])
    fixed = fixed_for(trunk, prompts, batch)
    end = batch.input_tokens + 10
    assert end < fixed.bucket.tokens
    wanted = with_gradient(fixed.row_losses(prompts.flat), prompts)
    plain = FixedBatch.inputs

    def spoilt(self: FixedBatch, flat: Tensor) -> Tensor:
        packed = plain(self, flat)
        packed[end:] = torch.nan
        return packed

    monkeypatch.setattr(FixedBatch, "inputs", spoilt)
    found = with_gradient(fixed.row_losses(prompts.flat), prompts)
    assert all(torch.equal(own, other) for own, other in zip(found, wanted, strict=True))


def test_a_row_that_is_not_finite_spoils_no_other(trunk: PackedTrunk, gpu: None) -> None:
    prompts, batch = drawn_prompts([3, 2, 4], trunk), drawn_batch([7, 1, 40, 9], [0, 1, 2, 1])
    wanted = with_gradient(trunk.row_losses(prompts, batch), prompts)
    with torch.no_grad():
        prompts.flat[3] = torch.nan
    found = with_gradient(fixed_for(trunk, prompts, batch).row_losses(prompts.flat), prompts)
    assert found[0].isfinite().tolist() == [True, False, True, False]
    torch.testing.assert_close(found[0][::2], wanted[0][::2], **CLOSE[0])
    for own in (slice(0, 3), slice(5, 9)):
        torch.testing.assert_close(found[1][own], wanted[1][own], **CLOSE[1])


def test_rows_in_any_order_give_the_same_losses(trunk: PackedTrunk) -> None:
    """The order that a GPU's packed path takes them in."""
    prompts, batch = drawn_prompts([3, 2], trunk), drawn_batch([9, 1, 40, 70, 9], [0, 1, 1, 0, 1])
    wanted = with_gradient(trunk._row_losses(prompts, batch), prompts)
    found = with_gradient(trunk._sorted_losses(prompts, batch), prompts)
    torch.testing.assert_close(found[0], wanted[0], **CLOSE[0])
    torch.testing.assert_close(found[1], wanted[1], **CLOSE[1])


def test_rows_are_packed_the_longest_first() -> None:
    batch, cu_seqlens = drawn_batch([3, 9, 1, 9], [1, 0, 1, 0]), cu_seqlens_of([2, 7])
    bucket = Bucket.of(cu_seqlens.diff(), batch)
    parts = integers(bucket, cu_seqlens, batch, True).split(list(bucket.sizes.values()))
    at = dict(zip(bucket.sizes, parts, strict=True))
    assert at["order"].tolist() == [1, 3, 0, 2]  # 11, 11, 10 and 8 tokens
    assert at["cu_seqlens"].diff().tolist() == [11, 11, 10, 8]
    assert at["label_lengths"].tolist() == [int(batch.label_lengths[row]) for row in (1, 3, 0, 2)]


def two_of_a_bucket(trunk: PackedTrunk) -> tuple[TargetPrompts, list[Batch]]:
    """Two batches that share a bucket and nothing else: lengths, order, slots and tokens differ."""
    prompts = drawn_prompts([3, 3], trunk)
    batches = [drawn_batch([9, 1, 11], [0, 1, 1], 1, 2), drawn_batch([2, 13, 5], [1, 1, 0], 2, 2)]
    assert Bucket.of(prompts.lengths, batches[0]) == Bucket.of(prompts.lengths, batches[1])
    return prompts, batches


@pytest.mark.slow
def test_a_record_of_one_batch_repeated_on_another_gives_that_ones_losses(
    trunk: PackedTrunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nothing of the first batch is burnt in."""
    as_on_a_gpu(monkeypatch)
    prompts, batches = two_of_a_bucket(trunk)
    wanted = [with_gradient(trunk.row_losses(prompts, batch), prompts) for batch in batches]
    fixed = fixed_for(trunk, prompts, batches[0])
    recording = Recording()
    with recording:
        found = with_gradient(fixed.row_losses(prompts.flat), prompts)
    for batch, want in [*zip(batches, wanted, strict=True)][::-1]:
        put(fixed, trunk, prompts, batch)
        recording.replay()
        torch.testing.assert_close(found[0], want[0], **CLOSE[0])
        torch.testing.assert_close(found[1], want[1], **CLOSE[1])
        eager = with_gradient(fixed.row_losses(prompts.flat), prompts)
        assert all(torch.equal(own, other) for own, other in zip(found, eager, strict=True))


def test_nothing_waits_for_the_device_or_reads_the_host(trunk: PackedTrunk, monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_a_gpu(monkeypatch)
    prompts, (batch, _) = two_of_a_bucket(trunk)
    fixed = fixed_for(trunk, prompts, batch)
    with lawful():
        with_gradient(fixed.row_losses(prompts.flat), prompts)
    with pytest.raises(Unlawful), lawful():  # as the packed path does
        with_gradient(trunk.row_losses(prompts, batch), prompts)


@pytest.mark.gpu
def test_a_replayed_graph_gives_what_packed_rows_give(trunk: PackedTrunk) -> None:
    prompts, batches = two_of_a_bucket(trunk)
    fixed = fixed_for(trunk, prompts, batches[0])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        with_gradient(fixed.row_losses(prompts.flat), prompts)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        found = with_gradient(fixed.row_losses(prompts.flat), prompts)
    for batch in batches[::-1]:
        put(fixed, trunk, prompts, batch)
        graph.replay()
        wanted = with_gradient(trunk.row_losses(prompts, batch), prompts)
        torch.testing.assert_close(found[0], wanted[0], **CLOSE[0])
        torch.testing.assert_close(found[1], wanted[1], **CLOSE[1])


@given(st.integers(1, 1 << 20), st.sampled_from([ROW_STEPS, TOKEN_STEPS]))
def test_a_rounded_size_is_never_too_small_and_wastes_little(size: int, steps: int) -> None:
    found = rounded(size, steps)
    assert size <= found < size + max(size / steps, 1)
    assert rounded(found, steps) == found
    assert rounded(size + 1, steps) >= found


@pytest.mark.parametrize("steps", [ROW_STEPS, TOKEN_STEPS])
def test_there_are_few_sizes(steps: int) -> None:
    octaves = [{rounded(size, steps) for size in range(low + 1, 2 * low + 1)} for low in (256, 1024)]
    assert [len(sizes) for sizes in octaves] == [steps, steps]


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 2), st.integers(1, 6)), min_size=1, max_size=24))
def test_a_bucket_holds_its_batch(rows: list[tuple[int, int, int]]) -> None:
    lengths = torch.tensor([4, 1, 9])
    batch = make_batch([[5] * n for n, _, _ in rows], [[7] * t for _, _, t in rows], [slot for _, slot, _ in rows])
    bucket = Bucket.of(lengths, batch)
    whole = [n + int(lengths[slot]) for n, slot, _ in rows]
    assert sum(whole) <= bucket.tokens < sum(whole) * (1 + 1 / TOKEN_STEPS) + 1
    assert max(whole) <= bucket.max_seqlen and max(t for _, _, t in rows) <= bucket.max_label
    found = integers(bucket, cu_seqlens_of(lengths), batch, True)
    assert len(found) == sum(bucket.sizes.values())


def test_batches_of_one_kind_share_few_buckets() -> None:
    """A thousand batches of 16 rows, as a training has them: most are of a bucket that was met before."""
    rng = random.Random(0)
    lengths, met = torch.tensor([5]), set()
    for _ in range(1000):
        texts = [[5] * round(min(max(rng.lognormvariate(3.6, 0.6), 4), 256)) for _ in range(16)]
        batch = make_batch(texts, [[7] * rng.randint(2, 6) for _ in texts], [0] * 16)
        met.add(Bucket.of(lengths, batch))
    assert len(met) <= 60
