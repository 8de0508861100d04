"""The frozen T5: a step of the trunk, a whole training step, an evaluation; ours against transformers.

    pytest benchmarks/bench_trunk.py --benchmark-only --benchmark-json=trunk.json
    python -m benchmarks.table trunk.json

`spp` at the shapes of the embedded trunk, t5-small and t5-base, 16 mixed rows a run, whose padding is the median
of many batches'; one run on a CPU, 1 to 27 on a GPU. Losses and gradients are compared before anything is timed,
answers are those of the timed rounds. Every round times each engine once, in
turn, so that what else the machine does meets all of them; ratios are of medians. transformers computes
on padded rows with SDPA, and is measured as it is, under torch.compile, and as PEFT's prompt tuning, which
trains one prompt for all rows. In `extra_info`: medians in seconds, real tokens, the products' share of the
peak that a matrix product reaches in the same rounds, slots of the padded input over real tokens, and the
peak memory of a step in a process of its own.
"""

from __future__ import annotations

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.engines import HAS_PEFT, Engine, opened, peft_step
from benchmarks.inputs import DEVICE, SIZES, checkpoint
from benchmarks.ladder import RUNGS, rung
from compt_fast.models.batch import TargetPrompts
from tests.helpers.shared import real

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # of torch's compiler, PEFT
OURS = "fast bf16"
THEIRS = "transformers bf16"
EXACT = "transformers fp32"
ENGINES = (OURS, "fast fp32", THEIRS, EXACT)
COMPILED = "torch.compile bf16"
REPLAYED = "replayed bf16"
PEFT = "PEFT bf16"
LOSSES = 1e-6 if DEVICE == "cpu" else 1e-5  # how far fp32 may lie apart; a GPU's products are summed in any order
ROUNDS = {"mini": 15, "t5-small": 5, "t5-base": 3}
WIDE = {"mini": 0, "t5-small": 1, "t5-base": 4}  # what a run's padded rows take, about, in parts of t5-small's
MOST = 40
RUNS = (1, 3, 9, 27) if DEVICE == "cuda" else (1,)
ROOT = Path(__file__).parents[1]
Work = Callable[[], Any]


@pytest.fixture(scope="module", params=SIZES)
def size(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param
    engine.cache_clear()
    gc.collect()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trunk")


@lru_cache
def engine(name: str, size: str, folder: Path, runs: int = 1) -> Engine:
    """One that all benchmarks of a size share: a checkpoint is long in opening."""
    return opened(name, size, folder, runs)


def engines(names: tuple[str, ...], size: str, folder: Path, runs: int = 1) -> dict[str, Engine]:
    return {name: engine(name, size, folder, runs) for name in names}


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """How far two tensors lie apart, relative to the second one's length."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def check_steps(all_engines: dict[str, Engine]) -> None:
    """fp32 agrees, losses to `LOSSES` and gradients to 1e-3; bf16 is at most twice as far off as transformers' is.

    Rounding that carries a number across relu's step changes the gradient by a jump: at t5-base's shape
    transformers' own fp32 lies 1.6e-4 from fp64 and ours 6.0e-4, at t5-small's 6.7e-5 and 6.1e-5.
    """
    exact = all_engines.get(EXACT, all_engines["fast fp32"]).trunk_step()  # where theirs does not fit, ours is checked
    errors = {
        name: [apart(a, b) for a, b in zip(one.trunk_step(), exact, strict=True)] for name, one in all_engines.items()
    }
    assert errors["fast fp32"][0] < LOSSES and errors["fast fp32"][1] < 1e-3, errors
    for name in errors.keys() - {"fast fp32", EXACT}:
        for ours, theirs in zip(errors[name], errors[THEIRS], strict=True):
            assert ours <= 2 * theirs, errors


def timed(benchmark: BenchmarkFixture, works: dict[str, Work], rounds: int, warm: bool = True) -> dict[str, float]:
    """Medians in seconds of all `works`, in turn; the first one is what the benchmark itself times.

    Each is done once before, if `warm`.
    """
    (first, own), *others = works.items()
    times: dict[str, list[float]] = {name: [] for name, _ in others}

    def finished(work: Work) -> Any:
        done = work()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return done

    def time_others() -> None:
        for name, work in others:
            gc.collect()
            start = time.perf_counter()
            finished(work)
            times[name].append(time.perf_counter() - start)
        gc.collect()

    for work in works.values() if warm else ():
        finished(work)
    benchmark.pedantic(lambda: finished(own), setup=time_others, rounds=rounds)
    medians = {name: statistics.median(found) for name, found in times.items()}
    medians = {first: benchmark.stats.stats.median} | medians
    benchmark.extra_info["seconds"] = medians
    return medians


def peak(size: str) -> tuple[float, Work]:
    """Operations of some products, and the work: what a step's share of the peak is measured against.

    On a CPU products of the size's own widths with a matrix that oneDNN has packed, on a GPU large ones.
    """
    model = {"mini": 192, "t5-small": 512, "t5-base": 768}[size]
    rows, width, inner = (1024, model, 4 * model) if DEVICE == "cpu" else (8192, 8192, 8192)
    x = torch.randn(rows, width, device=DEVICE).bfloat16()
    matrix = torch.randn(inner, width, device=DEVICE).bfloat16()
    packed = torch.ops.mkldnn._reorder_linear_weight(matrix, rows) if DEVICE == "cpu" else matrix
    cost = 2.0 * rows * width * inner
    times = max(1, round((2e10 if DEVICE == "cpu" else 2e13) / cost))

    def multiply() -> None:
        for _ in range(times):
            if DEVICE == "cpu":
                torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
            else:
                torch.nn.functional.linear(x, matrix)

    return times * cost, multiply


def operations(one: Engine) -> float:
    """Multiplications and additions of the products of a step of the frozen trunk, about.

    Forward, and as many back to its input: every token through the encoder's matrices and its row's
    attention, whose backward is twice its forward; every label token through the decoder's matrices, whose
    cross-attention is counted with absorbed keys and values, and the head.
    """
    config, batch = one.job.trunk.config, one.batch  # type: ignore[attr-defined]
    width, inner = config.d_model, config.num_heads * config.d_kv
    feed = (3 if config.is_gated_act else 2) * width * config.d_ff
    lengths = (batch.input_lengths + one.prompts.lengths[batch.slots]).double()
    labels = batch.label_lengths.double()
    encoder = config.num_layers * (lengths.sum() * (4 * width * inner + feed) + 3 * inner * lengths.square().sum())
    cross = labels.sum() * 4 * width * inner + 2 * config.num_heads * width * (labels * lengths).sum()
    own = labels.sum() * (4 * width * inner + feed) + 2 * inner * labels.square().sum()
    decoder = config.num_decoder_layers * (own + cross)
    head = labels.sum() * width * config.vocab_size
    return float(2 * 2 * (encoder + decoder + head))


def note(benchmark: BenchmarkFixture, one: Engine, seconds: dict[str, float], peak: float, runs: int) -> None:
    batch, device = one.batch, torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    tokens = int(one.prompts.lengths[batch.slots].sum()) + batch.input_tokens + int(batch.label_cu_seqlens[-1])
    benchmark.extra_info.update(
        tokens=tokens,
        runs=runs,
        slots_per_token=round(one.padding(batch), 2),
        gflop=operations(one) / 1e9,
        peak_gflop_per_second=peak / 1e9,
        share_of_peak=operations(one) / seconds[OURS] / peak,
        threads=torch.get_num_threads(),
        device=device,
        torch=torch.__version__,
        real_rows=real("hub") is not None,
    )


def compared(size: str, runs: int) -> tuple[str, ...]:
    """The engines of a step: torch.compile, which is long in compiling, at two sizes and for one run; transformers in
    fp32 as long as its padded rows fit into a GPU's 80 GB (of 27 runs of t5-base, 432 rows, they do not).
    """
    if runs * WIDE[size] > MOST:
        return tuple(name for name in ENGINES if name != EXACT)
    return ENGINES if runs > 1 or size == "t5-small" else (*ENGINES, COMPILED)


@pytest.mark.parametrize("runs", RUNS)
def test_trunk_step(size: str, runs: int, folder: Path, benchmark: BenchmarkFixture) -> None:
    """Forward and backward from embeddings to prompts."""
    found = engines(compared(size, runs), size, folder, runs)
    check_steps(found)
    works: dict[str, Work] = {name: one.trunk_step for name, one in found.items()}
    if HAS_PEFT and runs == 1:
        works[PEFT] = checked_peft(size, folder)
    cost, multiply = peak(size)
    seconds = timed(benchmark, works | {"product": multiply}, ROUNDS[size])
    note(benchmark, found[OURS], seconds, cost / seconds["product"], runs)


def checked_peft(size: str, folder: Path) -> Work:
    """PEFT's step, once its loss is seen to be what `fast` gives for the same prompt in every row."""
    step, prompt = peft_step(size, folder)
    one = engine("fast fp32", size, folder)
    shared = TargetPrompts.from_stacks([prompt[None]])
    rows = one.job.trunk.row_losses(shared, replace(one.batch, slots=torch.zeros_like(one.batch.slots)))
    wanted = float(rows.sum() / one.batch.label_lengths.sum())
    assert float(step()) == pytest.approx(wanted, rel=0.05), "bf16 against fp32"
    return step


@pytest.mark.parametrize("runs", RUNS)
def test_training_step(size: str, runs: int, folder: Path, benchmark: BenchmarkFixture) -> None:
    """Composition, trunk, update: what `compt_fast.train` repeats; on a GPU also as a CUDA graph."""
    replayed = (REPLAYED,) if DEVICE == "cuda" else ()
    found = engines((*compared(size, runs), *replayed), size, folder, runs)
    for one in found.values():
        one.settle()
    with ExitStack() as stack:
        works: dict[str, Work] = {name: stack.enter_context(one.training()) for name, one in found.items()}
        if EXACT in works:
            assert works["fast fp32"]() == pytest.approx(works[EXACT](), rel=1e-4)
        timed(benchmark, works, ROUNDS[size])


@pytest.mark.parametrize("order", ["sorted", "drawn"])
def test_evaluation(size: str, order: str, folder: Path, benchmark: BenchmarkFixture) -> None:
    """300 rows with greedy decoding: sorted by length, many at a time, and scored, as a job evaluates; or 16 mixed
    rows at a time as they come, as they are trained on.
    """
    found = engines(ENGINES, size, folder)
    answers: dict[str, Any] = {}

    def work(name: str, one: Engine) -> Work:
        def answer() -> None:
            answers[name] = one.evaluation() if order == "sorted" else one.answers()

        return answer

    for one in found.values():
        assert one.scored and one.trainer
    works = {name: work(name, one) for name, one in found.items()}
    timed(benchmark, works, 5 if size == "mini" else 1, warm=size == "mini")
    assert answers["fast fp32"] == answers[EXACT]


def test_ladder(folder: Path, benchmark: BenchmarkFixture) -> None:
    """A trunk step at t5-base's shape in bf16, with one more technique each time."""
    size = "t5-base"
    steps: dict[str, Work] = {}
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for name in reversed(RUNGS):
        with rung(name):
            one = opened(OURS, size, folder)
            found[name] = one.trunk_step()

        def step(one: Engine = one, name: str = name) -> Any:
            with rung(name):
                return one.trunk_step()

        steps[name] = step
    top = found[RUNGS[-1]]
    for name, result in found.items():
        assert all(apart(a, b) < 0.05 for a, b in zip(result, top, strict=True)), name
    timed(benchmark, steps | {THEIRS: engine(THEIRS, size, folder).trunk_step}, 3)
    benchmark.extra_info["rungs"] = list(RUNGS)


@pytest.mark.parametrize("name", ENGINES)
def test_memory(size: str, name: str, folder: Path, benchmark: BenchmarkFixture) -> None:
    """Peak memory of training steps in a process of its own, weights included; its time is that process's."""
    checkpoint(size, folder / size)
    command = [sys.executable, "-m", "benchmarks.memory", name, size, str(folder)]

    def measured() -> int:
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        return int(done.stdout.split()[-1])

    benchmark.extra_info["peak_bytes"] = benchmark.pedantic(measured, rounds=1)
