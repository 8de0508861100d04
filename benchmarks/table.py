"""`python -m benchmarks.table FILE [-o RESULTS.json]`: pytest-benchmark's JSON of `bench_trunk` as the README's tables.

With `-o`, what the tables stand on is kept in a small JSON file: medians, and the machine's kind.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compt_fast.utils.files import write_json

OURS = "fast bf16"
REPLAYED = "replayed bf16"
WIDE = "fast fp32"
THEIRS = "transformers bf16"
EXACT = "transformers fp32"
ENGINES = (OURS, WIDE, THEIRS, EXACT)
OTHERS = ("torch.compile bf16", "PEFT bf16")
ORDERS = {"sorted": ", sorted", "drawn": ", 16 mixed at a time"}
WORKS = {"trunk_step": "trunk step", "training_step": "training step", "evaluation": "evaluation of 300 rows"}
Row = list[str]


def read(path: Path) -> dict[str, Any]:
    """The machine, and by name of test and parameters what each benchmark noted."""
    content = json.loads(path.read_text(encoding="utf-8"))
    machine = content["machine_info"]
    return {
        "date": content["datetime"][:10],
        "processor": machine["cpu"].get("brand_raw", machine["machine"]),
        "python": machine["python_version"],
        "benchmarks": {
            re.sub("^test_", "", bench["name"]): bench["extra_info"]
            for bench in content["benchmarks"]
            if bench["fullname"].startswith("benchmarks/bench_trunk.py")
        },
    }


def markdown(rows: Sequence[Row]) -> str:
    """Rows, the first of which is the head, as a table."""
    head, *rest = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rest])


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def _parameters(name: str) -> tuple[str, list[str]]:
    """The test and its parameters: of "trunk_step[t5-base-1]" trunk_step, and t5-base and 1."""
    test, _, rest = name.partition("[")
    size = re.match(r"mini|t5-small|t5-base", rest)
    return test, [size.group(), *filter(None, rest[size.end() : -1].split("-"))] if size else []


def _shape(parameters: list[str]) -> str:
    """What was timed: a size and, of several, the number of runs."""
    size, *others = parameters
    return size + "".join(f", {runs} runs" for runs in others if runs.isdigit() and runs != "1")


def _ratios(seconds: dict[str, float], own: str) -> list[str]:
    """Of transformers' times over ours; those that were not measured, for want of memory, have none."""
    return [f"**{seconds[engine] / seconds[own]:.2f}**" if engine in seconds else "-" for engine in (THEIRS, EXACT)]


def steps(benchmarks: dict[str, Any]) -> Iterator[Row]:
    """Times and ratios of every work at every size."""
    yield [
        "",
        "shape",
        "fast, bf16",
        "fast, fp32",
        "transformers, bf16",
        "transformers, fp32",
        "ratio bf16",
        "ratio fp32",
    ]
    for name, info in benchmarks.items():
        test, parameters = _parameters(name)
        if test not in WORKS:
            continue
        seconds = info["seconds"]
        times = [_time(seconds[engine]) if engine in seconds else "-" for engine in ENGINES]
        ratios = _ratios(seconds, OURS)
        order = [ORDERS[word] for word in parameters if word in ORDERS]
        yield ["".join([WORKS[test], *order]), _shape(parameters), *times, *ratios]
        if REPLAYED in seconds:
            of = [WORKS[test] + ", replayed", _shape(parameters), _time(seconds[REPLAYED])]
            yield [*of, *times[1:], *_ratios(seconds, REPLAYED)]


def trunk(benchmarks: dict[str, Any]) -> Iterator[Row]:
    """What else was measured beside a trunk step."""
    head = ["trunk step", "real tokens/s", "slots a token", "share of the GEMM peak"]
    yield [*head, "torch.compile, bf16", "PEFT, bf16"]
    for name, info in benchmarks.items():
        test, parameters = _parameters(name)
        if test != "trunk_step":
            continue
        seconds = info["seconds"]
        others = [f"{_time(seconds[k])} ({seconds[k] / seconds[OURS]:.2f})" if k in seconds else "-" for k in OTHERS]
        speed = f"{info['tokens'] / seconds[OURS]:,.0f}"
        share = f"{info['share_of_peak']:.0%} of {info['peak_gflop_per_second']:.0f} GFLOP/s"
        yield [_shape(parameters), speed, f"{info['slots_per_token']:.2f}", share, *others]


def fleet(benchmarks: dict[str, Any]) -> Iterator[Row]:
    """Training steps of several runs in one against transformers' of one run after the other."""
    yield ["training step", "fast, bf16", "transformers, bf16, one run", "times as many rows a second"]
    for name, info in benchmarks.items():
        test, parameters = _parameters(name)
        if test != "training_step" or parameters[1:] in ([], ["1"]):
            continue
        alone = benchmarks[f"training_step[{parameters[0]}-1]"]["seconds"][THEIRS]
        mine = info["seconds"].get(REPLAYED, info["seconds"][OURS])
        yield [_shape(parameters), _time(mine), _time(alone), f"**{int(parameters[1]) * alone / mine:.1f}**"]


def memory(benchmarks: dict[str, Any]) -> Iterator[Row]:
    """Peak memory of training steps by size and engine."""
    yield ["peak memory", *ENGINES, "of transformers, bf16"]
    for size in ("mini", "t5-small", "t5-base"):
        found = [benchmarks.get(f"memory[{size}-{engine}]", {}).get("peak_bytes") for engine in ENGINES]
        if all(found):
            yield [size, *(f"{peak / 2**20:,.0f} MiB" for peak in found), f"{found[0] / found[2]:.2f}"]


def ladder(benchmarks: dict[str, Any]) -> Iterator[Row]:
    """A trunk step with one more technique in each row."""
    yield ["t5-base, bf16", "trunk step", "against transformers"]
    info = benchmarks["ladder"]
    theirs = info["seconds"][THEIRS]
    yield ["transformers, padded", _time(theirs), "1.00"]
    for name in info["rungs"]:
        seconds = info["seconds"][name]
        yield [name, _time(seconds), f"{theirs / seconds:.2f}"]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="what --benchmark-json wrote")
    parser.add_argument("-o", "--out", type=Path, help="keep what the tables stand on here")
    given = parser.parse_args(argv)
    found = read(given.file)
    benchmarks = found["benchmarks"]
    tables = [list(table(benchmarks)) for table in (steps, trunk, fleet, memory)]
    if "ladder" in benchmarks:
        tables.append(list(ladder(benchmarks)))
    print(f"{found['processor']}, {found['date']}\n")
    print("\n\n".join(markdown(rows) for rows in tables if len(rows) > 1))
    if given.out is not None:
        write_json(given.out, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
