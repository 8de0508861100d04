"""How long a fleet would take on more GPUs than anybody here has: a simulation from measured step times.

    python -m tools.simulate_fleet benchmarks/results/h100-2026-11-27.json [--gpus 8,64,512] [--runs 1000,10000]
        [--mtbf HOURS] [--halve 3] [--pause SECONDS] [--plot docs/simulated.png] [-o FILE.json]

What is simulated: each GPU trains up to `width` runs in one pass; a step of k runs takes what was measured for k runs
(linear between measured widths). Runs have 500, 1000 or 2000 steps. They are dealt to the GPUs by estimated cost, the
longest first; a GPU without waiting runs takes one of the GPU with the most work waiting, when one of its own ends. A
GPU that fails takes up its work again after a while; its runs wait again, from their last checkpoint. With `--halve` a
run goes on at a rung (a ninth and a third of its steps for 3) if its score is in the best third of those so far.

What is not: the network, reading of data, scoring, and a GPU's pauses when its runs change, unless `--pause` gives
them. Printed is the time to the last run's end against the least time that any order of work could take.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import random
import sys
from bisect import insort
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compt_fast.utils.errors import InputError, exit_code
from compt_fast.utils.files import write_json
from compt_fast.utils.inputs import read_object

LENGTHS = (500, 1000, 2000)  # steps of a run


@dataclass(frozen=True)
class Curve:
    """Seconds of a training step of so many runs side by side: measured points, and lines between and behind them."""

    points: tuple[tuple[int, float], ...]

    @classmethod
    def read(cls, path: Path, kind: str = "replayed bf16") -> Curve:
        """The points of a file of `benchmarks/results`: `training_step`, "KIND, N runs", `seconds_a_step`.

        Raises `InputError` where there are fewer than two.
        """
        steps = read_object(path, "measured step times").get("training_step")
        found = {}
        for name, entry in steps.items() if isinstance(steps, Mapping) else ():
            given, _, runs = name.rpartition(", ")
            if given == kind and runs.split(" ")[0].isdecimal() and isinstance(entry, Mapping):
                found[int(runs.split(" ")[0])] = float(entry["seconds_a_step"])
        if len(found) < 2:
            raise InputError(f"{path}: training_step has {len(found)} entries of {kind!r}; a curve takes two or more")
        return cls(tuple(sorted(found.items())))

    def seconds(self, runs: int) -> float:
        """Seconds of a step of `runs` runs."""
        behind = next((i for i, (width, _) in enumerate(self.points) if width >= runs), len(self.points) - 1)
        (left, low), (right, high) = self.points[max(behind, 1) - 1 : max(behind, 1) + 1]
        return low + (high - low) * (runs - left) / (right - left)

    def width(self, enough: float = 0.95) -> int:
        """The fewest runs side by side, of those measured, that reach `enough` of the most run-steps a second."""
        best = max(width / seconds for width, seconds in self.points)
        return next(width for width, seconds in self.points if width / seconds >= enough * best)


@dataclass(frozen=True)
class Setup:
    """One simulation: so many `gpus` and `runs`, the runs' lengths and scores drawn by `seed`.

    `mtbf` are the hours from one failure of a GPU to its next (None: never), `restart` the seconds until it is back,
    `checkpoint` the steps between checkpoints. `halve` is the reduction factor (0: every run to its end), `rungs` how
    often runs are compared. Costs are estimated with a relative error `error`. `pause` are seconds for which a GPU
    stands when runs enter or leave it.
    """

    gpus: int
    runs: int
    width: int
    seed: int = 0
    mtbf: float | None = None
    restart: float = 120.0
    checkpoint: int = 200
    halve: int = 0
    rungs: int = 2
    error: float = 0.2
    pause: float = 0.0
    steals: bool = True


@dataclass
class Outcome:
    """What came of a simulation, with the numbers of the runs in the order in which they ended.

    Times are in seconds. No order of work ends before `bound`: the steps that count, at the most run-steps a second, or
    the longest run alone. `lost` are those of the `steps` that a failure took.
    """

    makespan: float = 0.0
    bound: float = 0.0
    steps: int = 0
    lost: int = 0
    failures: int = 0
    stolen: int = 0
    finished: list[int] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)


@dataclass
class _Run:
    number: int
    total: int
    cost: float
    score: float
    done: int = 0  # steps, at the last checkpoint or rung
    rung: int = 0  # rungs passed


class _Gpu:
    """A GPU: every run on it takes a step at a time, so that one count of `steps` tells where each of them is."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.now = 0.0
        self.steps = 0.0
        self.alive: list[tuple[float, int, _Run, float]] = []  # the count at its next stop, and that at its entry
        self.waiting: deque[_Run] = deque()
        self.load = 0.0  # estimated steps that wait
        self.up = True
        self.version = 0  # of its next stop, which a change of runs moves


class Fleet:
    """A simulation that runs to its end: `Fleet(curve, setup).outcome`."""

    def __init__(self, curve: Curve, setup: Setup) -> None:
        self.setup = setup
        self.seconds = [0.0, *(curve.seconds(k) for k in range(1, setup.width + 1))]
        self.chance = random.Random(setup.seed)
        self.failing = random.Random(setup.seed + 1)
        self.gpus = [_Gpu(number) for number in range(setup.gpus)]
        self.events: list[tuple[float, int, _Gpu, str, int]] = []
        self.order = itertools.count()
        self.seen: list[list[float]] = [[] for _ in range(setup.rungs)]  # scores at each rung, the best first
        self.outcome = Outcome()
        self.left = setup.runs
        self.longest = 0  # steps of a run, of those that have ended
        self._deal()
        self._go()

    def _deal(self) -> None:
        """Runs to GPUs by estimated cost, the longest first, each to the one with the least so far."""
        runs = []
        for number in range(self.setup.runs):
            total = self.chance.choice(LENGTHS)
            cost = total * math.exp(self.chance.gauss(0.0, self.setup.error))
            runs.append(_Run(number, total, cost, self.chance.random()))
        least = [(0.0, gpu.number) for gpu in self.gpus]
        for run in sorted(runs, key=lambda run: -run.cost):
            load, number = heapq.heappop(least)
            self._wait(self.gpus[number], run)
            heapq.heappush(least, (load + run.cost, number))

    @staticmethod
    def _wait(gpu: _Gpu, run: _Run) -> None:
        gpu.waiting.append(run)
        gpu.load += run.cost

    def _go(self) -> None:
        for gpu in self.gpus:
            self._enter(gpu, steals=False)
            self._next(gpu)
            self._next_failure(gpu)
        while self.left:
            time, _, gpu, what, version = heapq.heappop(self.events)
            if what == "stop" and version == gpu.version and gpu.up:
                self._forward(gpu, time)
                self._stop(gpu)
            elif what == "fail":
                self._fail(gpu, time)
            elif what == "back":
                gpu.up, gpu.now = True, time
                self._enter(gpu, self.setup.steals)
                self._next(gpu)
        best = min(self.seconds[k] / k for k in range(1, self.setup.width + 1))
        work = (self.outcome.steps - self.outcome.lost) * best / self.setup.gpus
        self.outcome.bound = max(work, self.longest * min(self.seconds[1:]))

    def _forward(self, gpu: _Gpu, time: float) -> None:
        if gpu.alive and time > gpu.now:
            gpu.steps += (time - gpu.now) / self.seconds[len(gpu.alive)]
        gpu.now = max(gpu.now, time)

    def _next(self, gpu: _Gpu) -> None:
        """Note when the next of a GPU's runs comes to a stop."""
        gpu.version += 1
        if gpu.alive:
            time = gpu.now + (gpu.alive[0][0] - gpu.steps) * self.seconds[len(gpu.alive)]
            heapq.heappush(self.events, (time, next(self.order), gpu, "stop", gpu.version))

    def _enter(self, gpu: _Gpu, steals: bool) -> bool:
        """Let waiting runs in, then, if it `steals`, those of the GPU with most waiting; whether any came."""
        before = len(gpu.alive)
        while len(gpu.alive) < self.setup.width:
            source = gpu
            if not gpu.waiting:
                source = max(self.gpus, key=lambda other: other.load) if steals else gpu
                if not source.waiting:
                    break
                self.outcome.stolen += 1
            run = source.waiting.popleft()
            source.load = source.load - run.cost if source.waiting else 0.0
            self._admit(gpu, run)
        return len(gpu.alive) > before

    def _admit(self, gpu: _Gpu, run: _Run) -> None:
        stop = self._rung(run) if run.rung < self._rungs else run.total
        heapq.heappush(gpu.alive, (gpu.steps + stop - run.done, next(self.order), run, gpu.steps))

    @property
    def _rungs(self) -> int:
        return self.setup.rungs if self.setup.halve else 0

    def _rung(self, run: _Run) -> int:
        """The steps after which a run is next compared."""
        return math.ceil(run.total / self.setup.halve ** (self.setup.rungs - run.rung))

    def _stop(self, gpu: _Gpu) -> None:
        """The first of a GPU's runs is at a rung, or through."""
        at, _, run, entered = heapq.heappop(gpu.alive)
        gpu.steps = at
        took = round(at - entered)
        run.done += took
        self.outcome.steps += took
        if run.done < run.total and self._goes_on(run):
            self._admit(gpu, run)
        else:
            (self.outcome.finished if run.done >= run.total else self.outcome.stopped).append(run.number)
            self.left -= 1
            self.longest = max(self.longest, run.done)
            self.outcome.makespan = gpu.now
            self._enter(gpu, self.setup.steals)
            gpu.now += self.setup.pause
        self._next(gpu)

    def _goes_on(self, run: _Run) -> bool:
        """Whether a run is among the best at its rung, of those that have come there so far."""
        seen = self.seen[run.rung]
        insort(seen, -run.score)
        run.rung += 1
        return -run.score <= seen[(len(seen) - 1) // self.setup.halve]

    def _next_failure(self, gpu: _Gpu) -> None:
        if self.setup.mtbf is not None:
            time = gpu.now + self.failing.expovariate(1 / (3600 * self.setup.mtbf))
            heapq.heappush(self.events, (time, next(self.order), gpu, "fail", 0))

    def _fail(self, gpu: _Gpu, time: float) -> None:
        """A GPU's runs wait again, as of their last checkpoints, and itself is back after a while."""
        self._forward(gpu, time)
        self.outcome.failures += 1
        saved = gpu.steps // self.setup.checkpoint * self.setup.checkpoint
        for _, _, run, entered in gpu.alive:
            kept, took = max(0, math.floor(saved - entered)), math.floor(gpu.steps - entered)
            run.done += kept
            self.outcome.steps += took
            self.outcome.lost += took - kept
            gpu.waiting.appendleft(run)
            gpu.load += run.cost
        gpu.alive.clear()
        gpu.steps = saved
        gpu.up = False
        gpu.version += 1
        heapq.heappush(self.events, (time + self.setup.restart, next(self.order), gpu, "back", 0))
        gpu.now = time + self.setup.restart
        self._next_failure(gpu)
        for other in self.gpus if self.setup.steals else ():
            if other.up and not other.alive and gpu.waiting:
                self._forward(other, time)
                self._enter(other, steals=True)
                self._next(other)


def simulate(curve: Curve, setup: Setup) -> Outcome:
    """The outcome of one simulation."""
    return Fleet(curve, setup).outcome


def row(curve: Curve, setup: Setup) -> dict[str, Any]:
    """A simulation with its numbers, without the runs' own."""
    outcome = asdict(simulate(curve, setup))
    outcome |= {name: len(outcome[name]) for name in ("finished", "stopped")}
    ratio = outcome["makespan"] / outcome["bound"]
    return asdict(setup) | outcome | {"hours": outcome["makespan"] / 3600, "over_bound": ratio}


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Makespan over its bound, and hours, against GPUs, a line a number of runs and way to train them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), dpi=110, layout="constrained")
    colours = dict(zip(sorted({row["runs"] for row in rows}), ("#0072B2", "#E69F00", "#D55E00"), strict=False))
    styles = {(False, False): "-", (True, False): "--", (False, True): ":", (True, True): "-."}
    words = {"-": "every run to its end", "--": "with failures", ":": "early exit", "-.": "early exit, with failures"}
    shown = set()
    for runs, (way, style) in itertools.product(colours, styles.items()):
        of = [r for r in rows if (r["runs"], r["mtbf"] is not None, r["halve"] > 0) == (runs, *way)]
        for panel, values in zip(panels, ("over_bound", "hours"), strict=True):
            panel.plot([r["gpus"] for r in of], [r[values] for r in of], style, color=colours[runs], marker=".")
        shown |= {style} if of else set()
    for panel, title in zip(panels, ("makespan / lower bound", "makespan, hours"), strict=True):
        panel.set(xscale="log", yscale="log", xlabel="GPUs", title=title)
        panel.set_xticks(gpus := sorted({row["gpus"] for row in rows}), gpus)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_yticks([1, 1.5, 2, 3, 5], ["1", "1.5", "2", "3", "5"])
    for runs, colour in colours.items():
        panels[1].plot([], [], "s", color=colour, label=f"{runs:,} runs")
    for style in [style for style in words if style in shown]:
        panels[1].plot([], [], style, color="grey", label=words[style])
    figure.legend(loc="outside right center", fontsize=8)
    figure.savefig(path)


def main(line: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.simulate_fleet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("measured", type=Path, help="a file of benchmarks/results with a training_step")
    parser.add_argument("--kind", default="replayed bf16", help="which of its steps")
    for name, default in (("gpus", "8,16,32,64,128,256,512"), ("runs", "1000,10000,100000")):
        parser.add_argument(f"--{name}", default=default, help=f"(default: {default})")
    parser.add_argument("--width", type=int, help="runs side by side (default: those that reach 95 %% of the most)")
    parser.add_argument("--mtbf", type=float, help="hours between failures of a GPU; also simulated without")
    parser.add_argument("--halve", type=int, default=0, help="reduction factor of early exit; also simulated without")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that a GPU stands when its runs change")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="PNG to draw")
    parser.add_argument("-o", type=Path, help="JSON to write")
    options = parser.parse_args(line)
    return exit_code(lambda: conduct(options))


def conduct(options: argparse.Namespace) -> int:
    """Simulate, print, write and draw what the options name."""
    curve = Curve.read(options.measured, options.kind)
    width = options.width or curve.width()
    rows = []
    ways = itertools.product(dict.fromkeys((None, options.mtbf)), dict.fromkeys((0, options.halve)))
    for (mtbf, halve), runs in itertools.product(ways, map(int, options.runs.split(","))):
        for gpus in map(int, options.gpus.split(",")):
            setup = Setup(gpus, runs, width, options.seed, mtbf, halve=halve, pause=options.pause)
            rows.append(found := row(curve, setup))
            print(
                f"{runs:7,} runs, {gpus:3} GPUs, {width} wide, MTBF {mtbf}, halve {halve}: {found['hours']:8.3f} h, "
                f"{found['over_bound']:5.2f} x the bound, {found['failures']} failures, {found['stolen']:,} stolen",
                flush=True,
            )
    if options.o:
        write_json(options.o, {"measured": options.measured.name, "kind": options.kind, "rows": rows})
    if options.plot:
        draw(rows, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
