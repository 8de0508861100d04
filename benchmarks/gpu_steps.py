"""`python -m benchmarks.gpu_steps STEP`: what `gpu.py` runs, each in a process of its own.

A step notes what it finds in $OUT/results.jsonl, part after part, so that a time-out takes only what is left. One that
cannot go on says why in its last line and ends with `UNABLE`.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.gpu import ROOT, UNABLE

OUT = Path(os.environ.get("OUT", ROOT / ".gpu" / "out"))
SCRATCH = Path(os.environ.get("SCRATCH", ROOT / ".gpu" / "scratch"))
BASE = "t5-base"
FAST = ("fast bf16", "replayed bf16")
ALONE = (*FAST, "transformers bf16")
PACKAGES = "torch triton transformers pytest pytest-benchmark pytest-xdist pyarrow datasets peft".split()
GRID = "in_every_product or t5_base_width"
EVALUATED = 27  # runs that are scored at a time
WORKERS = 5  # processes that try methods beside each other
failed: list[str] = []
"""The parts that did."""


class Unable(Exception):
    """Why a step cannot go on here."""


def note(**facts: Any) -> None:
    """A line of the results."""
    with (OUT / "results.jsonl").open("a") as results:
        results.write(json.dumps({"part_of": os.environ["STEP"], **facts}) + "\n")


@contextmanager
def part(name: str) -> Iterator[dict[str, Any]]:
    """A part of a step, whose failure is noted and stops no other; what it finds goes into the dictionary."""
    facts: dict[str, Any] = {}
    begin = time.monotonic()
    try:
        yield facts
    except Exception as error:  # whatever it is, the other parts go on
        facts["error"] = f"{type(error).__name__}: {error}"[:1000]
        failed.append(name)
        traceback.print_exc()
    note(part=name, seconds=round(time.monotonic() - begin, 2), **facts)


def check(met: bool, said: str) -> None:
    """Raises AssertionError, with what is `said`, where a condition is not met."""
    if not met:
        raise AssertionError(said)


def device() -> str:
    """The GPU's name."""
    import torch

    if not torch.cuda.is_available():
        raise Unable("no CUDA device")
    return torch.cuda.get_device_name()


def versions() -> None:
    """Versions, processor, memory, and the GPU."""
    found = {"python": platform.python_version(), "nvcc": shutil.which("nvcc") or ""}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    note(commit=_output("git", "log", "-1", "--format=%h"), **found)
    memory = Path("/proc/meminfo").read_text().splitlines()[:3]
    note(memory=memory, cores=len(os.sched_getaffinity(0)), disk=shutil.disk_usage(ROOT).free)
    asked = "--query-gpu=name,driver_version,memory.total,memory.used"
    note(gpu=device(), smi=_output("nvidia-smi", asked, "--format=csv"))
    print(device())


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10).stdout.strip()


def install() -> None:
    """As a user does; where pip cannot, a link does for whoever stands in the checkout."""
    line = "-m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable .".split()
    if subprocess.run([sys.executable, *line], cwd=ROOT, check=False).returncode:
        link = ROOT / "compt_fast" / "kernels"
        link.unlink(missing_ok=True)
        link.symlink_to(Path("..", "kernels"))
        failed.append("pip's install; compt_fast/kernels is a link instead")


def checkpoint() -> None:
    """A checkpoint of t5-base's shape with random weights, which the steps behind share."""
    from benchmarks import inputs

    made = Path(inputs.checkpoint(BASE, SCRATCH / "made"))
    made.rename(SCRATCH / BASE)  # whole or not at all: one that is lacking is made by whoever needs it
    print("real rows:", inputs.real("hub") is not None)


def every_method() -> None:
    """Each method's first steps on the embedded tasks, in both engines; several methods at a time."""
    from benchmarks.gpu_methods import CLOSE, tried
    from compt_fast.config.baselines import METHODS

    with ProcessPoolExecutor(WORKERS, get_context("spawn")) as pool:
        going = {method: pool.submit(tried, method, SCRATCH / "methods") for method in METHODS}
        for method, answer in going.items():
            with part(method) as facts:
                facts |= answer.result()
                check(facts.get("apart", 0.0) < CLOSE, f"more than {CLOSE} apart")


def kernel_tests() -> None:
    """The tests of the kernels, which run on the device where there is one, but for `kernel_grid`'s."""
    _tests("tests/kernels", "-m", "not slow", "-k", f"not ({GRID})", workers=14)


def kernel_grid() -> None:
    """Every setting of a composition in every precision, which takes as long as a compiler takes for hundreds."""
    _tests("tests/kernels", "-k", GRID, workers=14)


def device_tests() -> None:
    """The other tests that need a device."""
    _tests("tests/native", "tests/ops", "tests/models", "tests/training", "tests/test_info.py", "-m", "gpu", workers=8)


def _tests(*arguments: str, workers: int) -> None:
    side_by_side = ["-n", str(workers)] if find_spec("xdist") else []
    how = [*side_by_side, "-q", "-p", "no:cacheprovider", "-p", "no:benchmark", "-p", "benchmarks.gpu_reports"]
    code = subprocess.run([sys.executable, "-m", "pytest", *arguments, *how], cwd=ROOT, check=False).returncode
    check(code == 0, f"pytest ended with {code}")


def ceilings() -> None:
    """What a large copy and a large product reach."""
    import torch

    from benchmarks.kernels import milliseconds

    note(device=device())
    x = torch.empty(2**31, dtype=torch.uint8, device="cuda").random_()
    y = torch.empty_like(x)
    note(copied_gb_a_second=2 * x.nbytes / milliseconds(lambda: y.copy_(x)) / 1e6)
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    note(bf16_tflop_a_second=2 * 8192**3 / milliseconds(lambda: a @ b) / 1e9)


def one_run() -> None:
    """Training steps of one run at t5-base's shape."""
    _steps(1, ALONE)


def many_runs() -> None:
    """Of 27 runs in one pass, 432 rows; transformers too, if its padded rows fit."""
    _steps(27, ALONE)


def widths() -> None:
    """Of 3 to 108 runs in one pass, where one pass begins to fill the device."""
    for runs in (3, 9, 108):
        _steps(runs, FAST)


def methods() -> None:
    """A step of one run of every method at t5-base's shape, each over the same rows."""
    from benchmarks.bench_methods import engines_of

    for name, engine in engines_of(BASE, SCRATCH).items():
        with part(name) as facts, engine.training() as step:
            for _ in range(3):
                step()
            facts["seconds_a_step"] = statistics.median(_timed(step) for _ in range(10))


def evaluation() -> None:
    """Greedy answers to 2,400 rows of 27 runs, in passes over the rows of all, and to those of one at t5-base's shape;
    beside transformers' to one run, which takes 27 times as long for all. In how many tasks scores are the same.
    """
    from benchmarks import engines

    engines.ROWS = 2400
    answers: dict[tuple[str, int], dict[str, Any]] = {}  # of the first run
    for name, counts in (("fast bf16", (1, EVALUATED)), ("transformers bf16", (1,))):
        with part(name) as facts:
            engine = engines.opened(name, BASE, SCRATCH, max(counts))
            engine.evaluations(1)  # kernels are compiled
            facts["rows"] = sum(len(of.inputs) for of in engine.scored)
            for runs in counts:
                times = []
                for _ in range(3):
                    begin = time.perf_counter()
                    answers[name, runs] = engine.evaluations(runs)[0]
                    times.append(time.perf_counter() - begin)
                facts[f"seconds of {runs}"] = statistics.median(times)
            print(name, facts)
            del engine
    ours = answers["fast bf16", 1]
    for what, other in (("transformers", ("transformers bf16", 1)), ("among others", ("fast bf16", EVALUATED))):
        note(tasks=len(ours), beside=what, alike=sum(ours[task] == answers[other][task] for task in ours))


def compiled() -> None:
    """Of one run with transformers under torch.compile, which is long in compiling."""
    _steps(1, ("torch.compile bf16",))


def _steps(runs: int, names: Sequence[str]) -> None:
    import torch

    from benchmarks.engines import Engine, opened

    first: Engine | None = None
    for name in names:
        first = first if name in FAST else None  # whose trunk is not to lie beside another's
        gc.collect()
        torch.cuda.empty_cache()
        with part(f"{name}, {runs} runs") as facts:
            torch.cuda.reset_peak_memory_stats()
            engine = opened(name, BASE, SCRATCH, runs, like=first)
            first = first or engine
            try:
                engine.settle()
                facts |= {"runs": runs, **_timed_steps(engine), "peak": torch.cuda.max_memory_allocated()}
                facts |= {"rows": engine.batch.rows, "padding": engine.padding(engine.batch)}
            finally:
                engine.__dict__.pop("trainer", None)  # and so its prompts, moments and graphs
                del engine
            print(name, facts)


def _timed_steps(engine: Any) -> dict[str, Any]:
    import torch

    with engine.training() as step:
        for _ in range(4):  # kernels are compiled, buckets captured
            losses = step()
        torch.cuda.synchronize()
        times = [_timed(step) for _ in range(10)]
    return {"seconds_a_step": statistics.median(times), "fastest": min(times), "losses": losses[:3]}


def _timed(step: Callable[[], Any]) -> float:
    import torch

    begin = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def profile() -> None:
    """Where the device's time of a training step goes, and how many kernels there are."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    from benchmarks.engines import opened

    for runs, name in ((1, "replayed bf16"), (27, "replayed bf16")):
        with part(f"{name}, {runs} runs") as facts:
            engine = opened(name, BASE, SCRATCH, runs)
            engine.settle()
            with engine.training() as step:
                for _ in range(3):
                    step()
                with profiled(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
                    seconds = sum(_timed(step) for _ in range(3)) / 3
            kernels = [each for each in found.key_averages() if each.device_type.name == "CUDA"]
            kernels.sort(key=lambda each: -each.self_device_time_total)
            busy = sum(each.self_device_time_total for each in kernels) / 3e6
            facts |= {"seconds_a_step": seconds, "busy": busy / seconds, "launches": sum(e.count for e in kernels) / 3}
            facts["kernels"] = [
                (e.key[:60], e.count / 3, round(e.self_device_time_total / 3e3, 3)) for e in kernels[:40]
            ]


def attention() -> None:
    """The packed attention with its bias against SDPA on padded rows with the same bias as a mask."""
    from benchmarks.kernels import attention_times

    for rows in (16, 432):
        with part(f"{rows} rows") as facts:
            facts |= attention_times(rows)
            check(facts["apart"] < 2e-2, "more than 2e-2 apart")


def compose() -> None:
    """Composition and update at t5-base's width, for 1 and 27 runs."""
    from benchmarks import bench_compose

    line = f"--runs 1,27 --sources 3 --lengths 5 --paths eager,fleet,graph --rounds 20 --out {OUT}"
    raise SystemExit(bench_compose.main(line.split()))


def mini() -> None:
    """A job of the embedded suite, as a user starts it, replayed and operator by operator."""
    for flags in ([], ["--no-cuda-graphs"]):
        with part(" ".join(["job", *flags])) as facts:
            folder = SCRATCH / f"mini{len(flags)}"
            line = [sys.executable, "-m", "compt_fast.train", "--seeds=0", f"--out={folder}", *flags]
            subprocess.run(line, cwd=ROOT, check=True)
            found = json.loads((folder / "results.json").read_text())
            facts |= {"wall": found["wall_seconds"], "averages": {run["id"]: run["average"] for run in found["runs"]}}


def sanitizer() -> None:
    """`small` under compute-sanitizer."""
    if shutil.which("compute-sanitizer") is None:
        raise Unable("no compute-sanitizer")
    line = ["compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9"]
    line += [sys.executable, "-m", "benchmarks.gpu_steps", "small"]
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "COMPT_FAST_NATIVE": "0"}
    raise SystemExit(subprocess.run(line, cwd=ROOT, env=environment, check=False).returncode)


def small() -> None:
    """Each kernel at a size that a sanitizer is through with in seconds."""
    import torch

    from benchmarks.kernels import attention_error, update_error
    from compt_fast.kernels import norms
    from compt_fast.ops.cross_attention import KernelStates
    from tests.helpers import compositions as made

    made.check(made.bank_of(made.SPP, runs=1))
    print("update", update_error(), "attention", attention_error(torch.bfloat16))
    queries, states = (torch.randn(n, 768, device="cuda").bfloat16() for n in (36, 90))
    cu_seqlens_q, cu_seqlens_k = (torch.tensor([0, n // 3, n], device="cuda") for n in (36, 90))
    shared = KernelStates(states, cu_seqlens_q, cu_seqlens_k, 24, 60)
    attended, saved = shared.attend(queries)
    shared.attend_backward(attended, queries, saved)
    y, r = norms.rms_norm(states, 1e-6)
    norms.rms_norm_backward_(y, y, r, states)
    torch.cuda.synchronize()


STEPS: dict[str, Callable[[], None]] = {step.__name__: step for step in (
    versions, install, checkpoint, every_method, kernel_tests, kernel_grid, device_tests, ceilings, one_run,
    many_runs, widths, methods, evaluation, attention, compose, profile, compiled, mini, sanitizer, small,
)}  # fmt: skip


ON_THE_HOST = ("versions", "install", "checkpoint")
"""The steps that do something without a GPU."""


def main(name: str) -> int:
    """The step; 1 if a part of it failed."""
    os.environ["STEP"] = name
    try:
        if name not in ON_THE_HOST:
            device()
        STEPS[name]()
    except Unable as why:
        print(why)
        return UNABLE
    if failed:
        print("failed:", ", ".join(failed))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
