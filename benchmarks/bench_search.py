"""How soon a search finds the setting that a full grid would choose: 81 settings of spp on the suite mini, 16 shots.

    python -m benchmarks.bench_search -o benchmarks/results/search-2cpu.json      # hours on two cores
    python -m benchmarks.bench_search --repetitions 1 --tiny                      # minutes: does it run?

Each repetition, of a seed of its own, trains the grid of `recipes/spaces/spp.toml` one run at a time and as a fleet,
and searches it with halving. All three choose by development scores. A search has succeeded where it chose the grid's
setting, or one that on ten fresh seeds is at most half a point worse in the test. Seconds are of training and scoring,
without imports and without the fresh seeds. The machine must do nothing else.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compt_fast.search.record import Record
from compt_fast.search.trials import Trial, best_of
from compt_fast.utils.environment import environment
from compt_fast.utils.files import write_json

SPACE = Path(__file__).parents[1] / "recipes" / "spaces" / "spp.toml"
TINY = SPACE.with_name("tiny.toml")
FRESH, NEAR = 10, 0.5  # seeds, points
GOALS = {"one at a time": 5.0, "fleet": 3.0}  # times the search's seconds
WAYS: dict[str, list[str]] = {
    "one at a time": ["--sampler", "grid", "--runs-at-once", "1"],
    "fleet": ["--sampler", "grid"],
    # The first rung lies behind the warm-up of the 240 steps: before it no setting has learnt to answer.
    "search": ["--trials", "40", "--halve", "--rungs", "60,120"],
}


def train(folder: Path, flags: Sequence[str]) -> None:
    """Train a job in a process of its own."""
    line = [sys.executable, "-m", "compt_fast.train", "--out", str(folder), *flags]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)


def searched(folder: Path) -> tuple[Trial, float]:
    """The trial that a search chose, and the seconds after which its last trial had ended."""
    record = Record.read(folder)
    best = best_of(record.trials) if record is not None else None
    assert record is not None and best is not None
    return best, max(trial.seconds or 0.0 for trial in record.trials)


def on_fresh_seeds(folder: Path, trial: Trial, flags: Sequence[str], seeds: int) -> float:
    """The mean test average of a setting on seeds that no search has had."""
    setting = [f"--{name.partition('[')[0].replace('_', '-')}={value}" for name, value in trial.point.items()]
    train(folder, [*flags, *setting, "--seeds", ",".join(str(1000 + seed) for seed in range(seeds))])
    runs = json.loads((folder / "results.json").read_text())["runs"]
    return statistics.fmean(run["average"] for run in runs)


def repetition(seed: int, ways: dict[str, list[str]], flags: Sequence[str], space: Path, fresh: int) -> dict[str, Any]:
    """Seconds and choices of every way for one seed, and what the choices are worth on fresh seeds."""
    found: dict[str, Any] = {"seed": seed}
    worth: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as top:
        for way, own in ways.items():
            folder = Path(top, way.replace(" ", "-"))
            search = ["--search", str(space), "--search-seed", str(seed), "--confirm", "0", "--seeds", str(seed)]
            train(folder, [*flags, *search, *own])
            trial, seconds = searched(folder)
            key = json.dumps(trial.point, sort_keys=True)
            if key not in worth:
                worth[key] = on_fresh_seeds(Path(top, f"fresh-{len(worth)}"), trial, flags, fresh)
            found[way] = {"seconds": round(seconds, 1), "chose": trial.point, "fresh": round(worth[key], 2)}
    same = found["search"]["chose"] == found["fleet"]["chose"]
    found["found"] = same or found["search"]["fresh"] >= found["fleet"]["fresh"] - NEAR
    return found


def table(repetitions: Sequence[dict[str, Any]]) -> str:
    """A line a repetition in Markdown: seconds of each way, how many times those of the search, and its choice."""
    ways = [way for way in WAYS if way in repetitions[0]]
    ratios = [f"{way} / search" for way in ways[:-1]]
    heads = ["seed", *(f"{way} (s)" for way in ways), *ratios, "grid, search (fresh %)"]
    lines = ["| " + " | ".join([*heads, "found"]) + " |", "|" + " ---: |" * (len(heads) + 1)]
    for one in repetitions:
        took = [one[way]["seconds"] for way in ways]
        cells = [one["seed"], *took, *(f"{seconds / took[-1]:.1f}x" for seconds in took[:-1])]
        cells += [f"{one['fleet']['fresh']:.1f}, {one['search']['fresh']:.1f}", "yes" if one["found"] else "no"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def met(repetitions: Sequence[dict[str, Any]]) -> bool:
    """Whether every repetition found a setting as good as the grid's, and in the median soon enough."""
    soon = all(
        statistics.median(one[way]["seconds"] / one["search"]["seconds"] for one in repetitions) >= times
        for way, times in GOALS.items()
    )
    return soon and all(one["found"] for one in repetitions)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="four settings, few steps, two tasks, two fresh seeds")
    parser.add_argument("--searching", help="flags of the search in place of '--trials 40 --halve --rungs 60,120'")
    parser.add_argument("-o", "--out", type=Path, help="a JSON file for all figures")
    given = parser.parse_args(argv)
    flags = ["--method", "spp", "--shots", "16"]
    space, fresh, ways = SPACE, FRESH, WAYS
    if given.tiny:
        flags += ["--steps", "9", "--eval-size", "20", "--tasks", "mini_rte,mini_sst2", "--prompt-length", "2"]
        space, fresh, ways = TINY, 2, ways | {"search": ["--trials", "4", "--halve", "--rungs", "3"]}
    if given.searching:
        ways = ways | {"search": shlex.split(given.searching)}
    done: list[dict[str, Any]] = []
    for seed in range(given.repetitions):
        done.append(repetition(seed, ways, flags, space, fresh))
        print(json.dumps(done[-1]), flush=True)
        if given.out:
            write_json(given.out, {"environment": environment(), "flags": flags, "repetitions": done})
    print(table(done))
    return 0 if met(done) else 1


if __name__ == "__main__":
    sys.exit(main())
