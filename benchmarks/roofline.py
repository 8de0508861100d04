"""`python -m benchmarks.roofline`: the least time of a training step's every kernel on GPUs that need not be here.

Lists what a replayed step of `spp` on t5-base's shape does (16 rows a run, bf16): each kernel and product, how often,
its bytes and operations, and the least time that these take by a GPU's memory and tensor cores, or a launch where that
takes longer. Sums them by kind, and sets beside the sums what was measured (benchmarks/results). What is done is
recorded from the step's own code on tensors without data (`recorded_step`), what it costs counted from their shapes and
the rows' lengths (`costs`). Needs no GPU; a minute or two a number of runs, for real rows as `benchmarks.inputs` says.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import costs
from benchmarks.costs import KINDS, Call
from benchmarks.recorded_step import Step, recorded
from benchmarks.table import markdown
from compt_fast.utils.files import write_json

RUNS = (1, 3, 9, 27, 108)
LAUNCH = 1.2e-6  # seconds of a kernel that does nothing, replayed on an H200
RESULTS = Path(__file__).parent / "results"
MEASURED = {"H100": "h100-2026-11-27.json", "H200": "h200-2026-11-27.json"}


class Limits(NamedTuple):
    """What a GPU reaches at most: bytes a second of its memory, operations a second of dense bf16 products."""

    bytes: float
    operations: float

    def least(self, call: Call) -> float:
        """The seconds that a call takes at least."""
        return max(LAUNCH, call.bytes / self.bytes, call.operations / self.operations)


PUBLISHED = {"H100": Limits(3.35e12, 989e12), "H200": Limits(4.8e12, 989e12), "B200": Limits(8e12, 2250e12)}
"""By their makers' data sheets, of the SXM kind."""
NAMES = (
    (r"^nvjet|gemm|splitKreduce", costs.PRODUCTS),
    (r"^(_forward|_backward|_norm|_norm_backward|_backward_queries|_backward_keys)$", costs.ATTENTION),
    (r"^(_products|_softmax|_softmax_backward|_mixed|_weighted_sum|_states_grad)$", costs.CROSS),
    (r"^(prepare|encode|gather|backward_prompts|backward_layer|backward_logits)$", costs.COMPOSITION),
    (r"^(squares|update)$", costs.UPDATE),
)
"""The kinds of a profile's kernels, in which `_forward` is attention's and the norm's, `_backward` the norm's, and
`_mixed` the weighted sum, as they were called.
"""


@dataclass(frozen=True)
class Found:
    """What a step's calls come to, and what was measured of it."""

    step: Step
    calls: list[Call]
    limits: Mapping[str, Limits]

    def lines(self) -> list[dict[str, Any]]:
        """Each call that differs from the others, the longest first on the first GPU."""
        counts = Counter(self.calls)
        first = next(iter(self.limits.values()))
        ordered = sorted(counts, key=lambda call: -first.least(call) * counts[call])
        return [
            asdict(call)
            | {"launches": counts[call]}
            | {"least_us": {gpu: round(1e6 * counts[call] * of.least(call), 2) for gpu, of in self.limits.items()}}
            for call in ordered
        ]

    def summary(self) -> dict[str, Any]:
        """What the JSON has of it."""
        profiled = profiles(self.step.runs)
        by_kind = {kind: {gpu: of[kind] for gpu, of in profiled.items()} for kind in KINDS}
        return {
            "rows": self.step.rows,
            "tokens": self.step.tokens,
            "bucket": asdict(self.step.bucket),
            **self._sums(self.calls, measured_of(self.step.runs)),
            "kinds": {
                kind: self._sums([call for call in self.calls if call.kind == kind], measured)
                for kind, measured in by_kind.items()
            },
            "calls": self.lines(),
        }

    def _sums(self, calls: Sequence[Call], measured: Mapping[str, float]) -> dict[str, Any]:
        return {
            "launches": len(calls),
            "gigabytes": round(sum(call.bytes for call in calls) / 1e9, 4),
            "tflop": round(sum(call.operations for call in calls) / 1e12, 4),
            "least_ms": {gpu: round(1e3 * sum(map(of.least, calls)), 4) for gpu, of in self.limits.items()},
            "measured_ms": {gpu: round(milliseconds, 3) for gpu, milliseconds in measured.items()},
        }


def results(gpu: str) -> dict[str, Any]:
    """What was measured on a GPU."""
    content: dict[str, Any] = json.loads((RESULTS / MEASURED[gpu]).read_text(encoding="utf-8"))
    return content


@cache
def all_limits() -> dict[str, Limits]:
    """The published limits, and those that a large copy and a large product reached."""
    reached = {}
    for gpu in MEASURED:
        ceilings = results(gpu)["ceilings"]
        limits = Limits(1e9 * ceilings["copied_gb_a_second"], 1e12 * ceilings["bf16_tflop_a_second"])
        reached[f"{gpu}, as measured"] = limits
    return PUBLISHED | reached


def measured_of(runs: int) -> dict[str, float]:
    """Milliseconds of a replayed step of so many runs, the host's part included, by GPU, where it was timed."""
    timed = {gpu: results(gpu)["training_step"].get(f"replayed bf16, {runs} runs") for gpu in MEASURED}
    return {gpu: 1e3 * facts["seconds_a_step"] for gpu, facts in timed.items() if facts}


def profiles(runs: int) -> dict[str, dict[str, float]]:
    """Milliseconds on the device by kind, and by GPU where a profile was taken; what it does not list is the rest's."""
    found = {}
    for gpu in MEASURED:
        profile = results(gpu).get("profile_replayed", {}).get(f"replayed bf16, {runs} runs")
        if profile is None:
            continue
        sums = dict.fromkeys(KINDS, 0.0)
        for name, _, milliseconds in profile["kernels"]:
            sums[kind_of(name)] += milliseconds
        sums[costs.REST] += 1e3 * profile["seconds_a_step"] * profile["busy"] - sum(sums.values())
        found[gpu] = sums
    return found


def kind_of(name: str) -> str:
    """Of a kernel of a profile, by its name."""
    return next((kind for pattern, kind in NAMES if re.search(pattern, name)), costs.REST)


def found(size: str, runs: int, folder: Path) -> Found:
    """A recorded step and what it costs."""
    step = recorded(size, runs, folder)
    return Found(step, list(costs.calls(step)), all_limits())


def tables(found: Found, lines: int) -> str:
    """The calls that take longest, then the kinds, as text."""
    summary, gpus = found.summary(), list(found.limits)
    runs = f"{found.step.runs} run" + "s" * (found.step.runs > 1)
    head = f"## {runs}, {summary['rows']} rows, {summary['tokens']} tokens\n\n"
    rows = [["kind", "call", "sizes", "launches", "MB", "GFLOP", *(f"{gpu}, us" for gpu in gpus)]]
    rows += [
        [line["kind"], line["name"], line["sizes"], str(line["launches"])]
        + [f"{line['launches'] * line['bytes'] / 1e6:.1f}", f"{line['launches'] * line['operations'] / 1e9:.1f}"]
        + [f"{line['least_us'][gpu]:.1f}" for gpu in gpus]
        for line in summary["calls"][:lines]
    ]
    kinds = [["kind", "launches", "GB", "TFLOP", *(f"{gpu}, ms" for gpu in gpus), "measured, ms"]]
    kinds += [_sums(kind, of, gpus) for kind, of in (summary["kinds"] | {"all": summary}).items()]
    return head + markdown(rows) + "\n\n" + markdown(kinds) + "\n"


def _sums(kind: str, of: Mapping[str, Any], gpus: Iterable[str]) -> list[str]:
    least = [f"{of['least_ms'][gpu]:.3f}" for gpu in gpus]
    measured = ", ".join(f"{gpu} {milliseconds:.2f}" for gpu, milliseconds in of["measured_ms"].items())
    return [kind, str(of["launches"]), f"{of['gigabytes']:.3f}", f"{of['tflop']:.3f}", *least, measured]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables, or JSON."""
    parser = argparse.ArgumentParser(description="The least time of a training step's every kernel.")
    parser.add_argument("--runs", default=",".join(map(str, RUNS)), help="numbers of runs, with commas between")
    parser.add_argument("--size", default="t5-base", choices=("t5-small", "t5-base"), help="the trunk's shape")
    parser.add_argument("--lines", type=int, default=25, help="calls that the table lists, the longest first")
    parser.add_argument("--json", action="store_true", help="print all of it as JSON in place of tables")
    parser.add_argument("--out", type=Path, help="keep the JSON in this file, too")
    arguments = parser.parse_args(argv)
    steps = {}
    with tempfile.TemporaryDirectory() as folder:
        for runs in map(int, arguments.runs.split(",")):
            one = found(arguments.size, runs, Path(folder))
            steps[str(runs)] = one.summary()
            if not arguments.json:
                print(tables(one, arguments.lines), flush=True)
    limits = {gpu: of._asdict() for gpu, of in all_limits().items()}
    content = {"shape": arguments.size, "launch_seconds": LAUNCH, "limits": limits, "steps": steps}
    if arguments.json:
        print(json.dumps(content, indent=2))
    if arguments.out:
        write_json(arguments.out, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
