"""A training step of methods that compose prompts of each row, update the text or parametrise prompts otherwise.
`progressive`, which trains one task after another, is not among them: its step is that of `pt` behind more tokens.

    pytest benchmarks/bench_methods.py --benchmark-only --benchmark-json=methods.json

One run on GLUE's rows (mini: on the embedded ones), all tasks together, 16 rows a batch; target prompts are as long as
those of `spp`, so that what differs is the method. All methods take the same rows over the same trunk, in turn; in
`extra_info` are medians in seconds and their ratios to `spp`, of which the goal is 1.3 at t5-base's shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.bench_trunk import ROUNDS, timed
from benchmarks.engines import Engine
from benchmarks.inputs import DEVICE, SIZES, job
from compt_fast.config.flags import read_flags
from compt_fast.training.plan import plan_runs

METHODS: dict[str, dict[str, str]] = {
    "spp": {},
    "spp, input gates": {"gates": "input"},
    **{name: {"method": name} for name in "attempt-m smop mpt-m dept adept residual low-rank superpos".split()},
}


def engines_of(size: str, folder: Path, names: Sequence[str] = tuple(METHODS)) -> dict[str, Engine]:
    """An engine of each method over one trunk; each takes the step's rows of `spp`."""
    whole = job(size, "fast", "fp32" if DEVICE == "cpu" else "bf16", folder)
    tasks = [data.task.name for data in whole.data.tasks]
    engines: dict[str, Engine] = {}
    for name in names:
        own: dict[str, Any] = {"method": "spp", "prompt_length": "5", "steps": "1000000", "apart": False}
        runs = plan_runs(read_flags(own | METHODS[name], None), tasks=tasks, d_model=whole.trunk.d_model)
        (folder / name).mkdir()
        engines[name] = Engine(name, replace(whole, runs=runs), folder / name)
    for one in engines.values():
        one.rows = engines["spp"].rows
        one.settle()
    return engines


@pytest.mark.parametrize("size", SIZES)
def test_methods(size: str, tmp_path: Path, benchmark: BenchmarkFixture) -> None:
    """A whole step of each method: composition, trunk, backward, update."""
    with ExitStack() as stack:
        steps = {name: stack.enter_context(one.training()) for name, one in engines_of(size, tmp_path).items()}
        assert all(math.isfinite(loss) for step in steps.values() for loss in step())
        seconds = timed(benchmark, steps, ROUNDS[size])
    benchmark.extra_info["against_spp"] = {name: round(own / seconds["spp"], 3) for name, own in seconds.items()}
