"""Composition and update at t5-base width: the kernels against the reference in eager and compiled.

    python benchmarks/bench_compose.py                       # on a GPU all cases, on a CPU a short subset
    python benchmarks/bench_compose.py --runs 1,27 --sources 3 --lengths 5 --paths eager,fleet

Nothing is timed before its result was compared with the eager reference's. Beside each time stand the
ratio to eager and the floor: the bytes that must move over the bandwidth measured here, or the launches
where they take longer. Caches are emptied before each round, as a trunk's step empties them. On a CPU the
last lines are the share that composition and update take of a step of a frozen t5-base; more than 8 %
of the default engine's fails. Writes benchmarks/results/compose-<device>-<date>.json.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch._functorch.config
import torch._inductor.exc
from torch import Tensor

from compt_fast.kernels import adamw
from compt_fast.ops.compose import compose, path
from compt_fast.prompts.compose import compose as reference
from compt_fast.prompts.parameters import PromptBank
from compt_fast.prompts.shape import PromptShape
from compt_fast.utils.environment import environment
from compt_fast.utils.files import write_json

TASKS, WIDTH = 8, 768
PARTS = ("forward", "backward", "update", "all")
LAUNCHES = {"forward": 2, "backward": 3, "update": 2, "all": 7}  # of the kernels
SHARE = 0.08  # what composition and update may take of a training step on a CPU
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RESULTS = Path(__file__).parent / "results"


def formula_update(
    params: list[Tensor], grads: tuple[Tensor, ...], first: list[Tensor], second: list[Tensor], n: dict[str, Tensor]
) -> None:
    """AdamW as it is written down, over all runs at once: what the update is compared with."""
    norm = torch.stack([grad.flatten(1).square().sum(1) for grad in grads]).sum(0).sqrt()
    updated = norm.isfinite()

    def wide(value: Tensor, p: Tensor) -> Tensor:
        return value.to(p.dtype).view(-1, *[1] * (p.dim() - 1))

    scale = torch.where(updated, n["clip"] / norm.clamp(min=n["clip"]), 0.0)
    rate = torch.where(updated, n["rate"], 0.0)
    correction1, correction2 = 1 - adamw.BETA1 ** (n["taken"] + 1), 1 - adamw.BETA2 ** (n["taken"] + 1)
    for p, grad, m, v in zip(params, grads, first, second, strict=True):
        g = grad * wide(scale, p)
        m.mul_(adamw.BETA1).add_(g, alpha=1 - adamw.BETA1)
        v.mul_(adamw.BETA2).addcmul_(g, g, value=1 - adamw.BETA2)
        p.mul_(wide(1 - rate * n["decay"], p))
        p.sub_(wide(rate / correction1, p) * m / ((v / wide(correction2, p)).sqrt_() + adamw.EPSILON))


class Case:
    """A cohort of spp, a gradient of its targets, and one training step in parts on one path.

    Paths: `fleet` is what a training does on this device (the kernels on a GPU), `eager` and `compiled`
    the reference formulas, `graph` the fleet's step as a CUDA graph.
    """

    def __init__(self, path: str, runs: int, sources: int, length: int) -> None:
        self.shape = PromptShape("spp", TASKS, sources, True, length, WIDTH, normalisation="softmax", gates="learned")
        self.path = path
        self.params = PromptBank.create(self.shape, list(range(runs)), device=DEVICE).params
        self.leaves = list(self.params.values())
        self.grad = torch.randn(runs, TASKS, length, WIDTH, generator=torch.Generator().manual_seed(1)).to(DEVICE)
        self.first, self.second = ([torch.zeros_like(p) for p in self.leaves] for _ in range(2))
        values = {"rate": 0.01, "decay": 0.01, "clip": 1.0, "taken": 1.0}
        host = DEVICE if path != "fleet" else "cpu"  # where a trainer has them; a graph reads them from the device
        self.numbers = {k: torch.full((runs,), v, dtype=torch.float64, device=host) for k, v in values.items()}
        self.healthy = torch.ones(runs, dtype=torch.bool, device=DEVICE)
        fast = path in ("fleet", "graph")
        self.composer: Callable[..., Tensor] = self._compose_fleet if fast else self._compose_reference
        self.updater: Callable[..., Any] = self._update_fleet if fast else formula_update
        if path == "compiled":
            torch._dynamo.reset()
            torch._functorch.config.donated_buffer = False  # a backward is timed over and over
            self.composer = torch.compile(self.composer, dynamic=False)
            self.updater = torch.compile(self.updater, dynamic=False)

    def _compose_fleet(self, params: dict[str, Tensor]) -> Tensor:
        targets = compose(params, self.shape, training=True).targets
        assert targets is not None
        return targets

    def _compose_reference(self, params: dict[str, Tensor]) -> Tensor:
        targets = reference(params, self.shape, training=True).targets
        assert targets is not None
        return targets

    def _update_fleet(
        self, params: list[Tensor], grads: tuple[Tensor, ...], first: list[Tensor], second: list[Tensor], n: Any
    ) -> None:
        rates = [n["rate"]] * len(params)
        adamw.step(
            params, grads, first, second, rates=rates, decay=n["decay"], clip=n["clip"], taken=n["taken"],
            healthy=self.healthy,
        )  # fmt: skip

    def forward(self) -> Tensor:
        return self.composer(self.params)

    def backward(self, targets: Tensor, keep: bool = False) -> tuple[Tensor, ...]:
        return torch.autograd.grad(targets, self.leaves, self.grad, retain_graph=keep)

    def update(self, grads: tuple[Tensor, ...]) -> None:
        with torch.no_grad():
            self.updater(self.leaves, grads, self.first, self.second, self.numbers)

    def all(self) -> None:
        self.update(self.backward(self.forward()))

    def work(self, part: str) -> Callable[[], object]:
        """The part as a function without arguments, what comes before it done."""
        if part == "forward":
            return self.forward
        if part == "all":
            return captured(self.all) if self.path == "graph" else self.all
        targets = self.forward()
        if part == "backward":
            return lambda: self.backward(targets, keep=True)
        grads = self.backward(targets)
        return lambda: self.update(grads)

    def bytes(self, part: str) -> int:
        """What must move: each input read once, each output written once, all of it fp32."""
        size = 4 * sum(p.numel() for p in self.leaves)
        targets = 4 * self.grad.numel()
        parts = {"forward": size + targets, "backward": 2 * size + targets, "update": 7 * size}
        return sum(parts.values()) if part == "all" else parts[part]


def captured(work: Callable[[], None]) -> Callable[[], None]:
    """The work as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def gate(case: Case) -> None:
    """The case's targets, gradients and updated parameters are those of the eager reference."""
    eager = Case("eager", len(case.grad), case.shape.sources, case.shape.length)
    results = []
    for each in (case, eager):
        targets = each.forward()
        grads = each.backward(targets)
        # the updates start from the same gradients: Adam's first steps would magnify their rounding
        each.update(tuple(grad.clone() for grad in (grads if each is case else results[0][1:])))
        results.append([targets.detach(), *grads])
    pairs = [*zip(*results, strict=True), *zip(case.leaves, eager.leaves, strict=True)]
    for own, wanted in pairs:
        error = ((own - wanted).norm() / wanted.norm().clamp(min=1e-12)).item()
        if not error < 1e-3:
            sys.exit(f"{case.path} differs from the reference by {error:.2g}: nothing is timed")


@lru_cache
def eraser() -> Tensor:
    """More bytes than caches hold."""
    return torch.empty(2**28, dtype=torch.uint8, device=DEVICE)


def seconds(work: Callable[[], object], rounds: int) -> list[float]:
    """Times of rounds after some to warm up, the caches emptied before each; on a GPU by events."""
    times = []
    for _ in range(rounds + 3):
        eraser().zero_()
        if DEVICE.type == "cpu":
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        else:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1000)
    return times[3:]


@lru_cache
def bandwidth() -> float:
    """Bytes a second, read and written ones, of a large copy or of a change in place, whichever is quicker."""
    source = torch.ones(2**28 if DEVICE.type == "cuda" else 2**26, device=DEVICE)
    target = torch.ones_like(source)
    times = (seconds(lambda: target.copy_(source), 9), seconds(lambda: target.neg_(), 9))
    return 2 * 4 * source.numel() / min(map(statistics.median, times))


@lru_cache
def launch_seconds() -> float:
    """What one of many small launches takes; 0 on a CPU."""
    if DEVICE.type == "cpu":
        return 0.0
    small = torch.zeros(1, device=DEVICE)
    work = captured(lambda: [small.add_(1) for _ in range(100)] and None)
    return statistics.median(seconds(work, 20)) / 100


def measured(case: Case, part: str, rounds: int) -> dict[str, Any]:
    """One row of the results."""
    work = case.work(part)
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = sorted(seconds(work, rounds))
    floor = max(case.bytes(part) / bandwidth(), LAUNCHES[part] * launch_seconds())
    return {
        "path": case.path,
        "part": part,
        "runs": len(case.grad),
        "sources": case.shape.sources,
        "length": case.shape.length,
        "median_seconds": statistics.median(times),
        "quartiles_seconds": [times[len(times) // 4], times[-1 - len(times) // 4]],
        "bytes": case.bytes(part),
        "floor_seconds": floor,
        "peak_bytes": torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else None,
    }


def trunk_step_seconds(engine: str, rows: int = 16) -> float:
    """Forward and backward of a frozen t5-base in bf16, the quicker dtype here, by an engine.

    16 rows of 16 to 73 tokens, 735 in all, and their prompts of 5 tokens. Random weights take as long as
    trained ones.
    """
    from transformers import T5Config, T5ForConditionalGeneration

    from compt_fast.models.batch import TargetPrompts, make_batch
    from compt_fast.models.engines.fast import PackedTrunk
    from compt_fast.models.engines.reference import ReferenceTrunk

    kind = {"fast": PackedTrunk, "reference": ReferenceTrunk}[engine]
    config = T5Config(d_model=WIDTH, d_ff=3072, num_layers=12, num_heads=12, dropout_rate=0.0)
    model = T5ForConditionalGeneration(config).bfloat16().eval().requires_grad_(False)
    tokenizer: Any = SimpleNamespace(eos_token_id=1)
    trunk = kind(model, tokenizer, "t5-base", "prepend")
    lengths = [min(73, 16 + 4 * i) for i in range(rows)]
    ids = torch.randint(100, 30000, (80,), generator=torch.Generator().manual_seed(0)).tolist()
    batch = make_batch([ids[:n] for n in lengths], [ids[:3]] * rows, [i % TASKS for i in range(rows)])
    prompts = torch.randn(TASKS, 5, WIDTH, requires_grad=True)

    def step() -> None:
        trunk.row_losses(TargetPrompts.from_stacks([prompts]), batch).sum().backward()

    return statistics.median(seconds(step, 5))


def row_text(row: dict[str, Any], eager: float | None) -> str:
    low, high = (1000 * t for t in row["quartiles_seconds"])
    ratio = f"{eager / row['median_seconds']:6.1f}x" if eager else "      -"
    share = row["floor_seconds"] / row["median_seconds"]
    return (
        f"{row['runs']:4} {row['sources']:3} {row['length']:4} {row['part']:8} {row['path']:8} "
        f"{1000 * row['median_seconds']:9.3f} ({low:.3f} to {high:.3f}) {ratio} "
        f"{1000 * row['floor_seconds']:9.3f} {share:6.1%}"
    )


def numbers_of(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def chosen(argv: Sequence[str] | None) -> tuple[list[tuple[int, int, int]], list[str], argparse.Namespace]:
    """Cases (runs, sources, length) and paths."""
    gpu = DEVICE.type == "cuda"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=numbers_of, default=[1, 3, 27] if gpu else [1, 3])
    parser.add_argument("--sources", type=numbers_of, default=[1, 3, 10] if gpu else [3])
    parser.add_argument("--lengths", type=numbers_of, default=[5, 10, 100] if gpu else [5, 100])
    parser.add_argument("--paths", default="eager,compiled,fleet,graph" if gpu else "eager,compiled,fleet")
    parser.add_argument("--rounds", type=int, default=30 if gpu else 9)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    found = parser.parse_args(argv)
    cases = [(r, n, m) for r in found.runs for n in found.sources for m in found.lengths]
    return cases, found.paths.split(","), found


def main(argv: Sequence[str] | None = None) -> int:
    cases, paths, options = chosen(argv)
    shape = PromptShape("spp", TASKS, 3, True, 5, WIDTH)
    composed = ": ".join(path(shape, DEVICE))
    print(f"{bandwidth() / 1e9:.0f} GB/s; a launch {launch_seconds() * 1e6:.1f} us; fleet composes by {composed}")
    print("runs   N    m part     path       median ms (quartiles)   vs eager   floor ms  share of it")
    rows = []
    for case in cases:
        eager: dict[str, float] = {}
        for name in paths:
            try:
                gate(Case(name, *case))
            except torch._inductor.exc.InductorError as error:
                print(f"{' '.join(map(str, case))} {name}: torch cannot compile it here: {error}")
                continue
            timed = Case(name, *case)
            for part in PARTS if name != "graph" else ("all",):
                rows.append(measured(timed, part, options.rounds))
                if name == "eager":
                    eager[part] = rows[-1]["median_seconds"]
                print(row_text(rows[-1], eager.get(part)), flush=True)
            del timed
    content = {
        "environment": environment(),
        "composed_by": composed,
        "bandwidth": bandwidth(),
        "launch_seconds": launch_seconds(),
        "rows": rows,
    }
    failed = False
    if DEVICE.type == "cpu":
        own = next(r for r in rows if r["path"] == paths[-1] and r["part"] == "all")
        for engine in ("fast", "reference"):
            step = trunk_step_seconds(engine)
            share = own["median_seconds"] / (own["runs"] * step)
            content |= {f"{engine}_step_seconds": step, f"share_of_{engine}_step": share}
            failed |= engine == "fast" and share > SHARE
            print(
                f"composition and update take {share:.1%} of a t5-base step of {step:.2f} s (engine {engine}, bf16, "
                f"16 rows a run); at most {SHARE:.0%}: {'NOT met' if share > SHARE else 'met'}"
            )
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"{content['environment']['cpu']['cores']}cpu"
    name = re.sub(r"\W+", "-", device.lower())
    target = options.out / f"compose-{name}-{date.today().isoformat()}.json"
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(target, content)
    print(target)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
