"""How often int8 answers as bf16 and fp32 do: `python -m tools.int8_agreement RUN [RUN ...]`.

RUN is a run folder with trained prompts. Every evaluation row of its tasks is answered by greedy decoding in each
precision; printed are the rows whose answer is that of fp32 and of bf16, and each precision's scores. By hand, after a
change of what int8 rounds: a minute a run folder of `mini`.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from compt_fast.evaluation.evaluator import average, scored
from compt_fast.runs.loaded import load_job, stored_runs

DTYPES = ("fp32", "bf16", "int8")
ALL = 10**9  # more rows than any task has
Answers = list[tuple[str, str]]


def answered(folder: Path, name: str, dtype: str, rows: int) -> tuple[Answers, dict[str, float]]:
    """What a run answers in `dtype`, a task and a text for each of `rows` rows a task at most; and its scores."""
    loaded = load_job(folder, {"dtype": dtype, "eval_size": str(rows)})
    ((asked, predicted),) = loaded.predict([(name, None)])
    tasks = scored(asked.sets, predicted, asked.mode)
    sets = zip(asked.sets, predicted, strict=True)
    answers = [(of.task.name, text) for of, texts in sets for text in texts]
    metrics = {
        f"{task} {metric}": value for task, values in tasks.items() for metric, value in values["scores"].items()
    }
    return answers, metrics | {"average": average(tasks)}


def same(a: Answers, b: Answers) -> float:
    """The percentage of rows that are answered alike."""
    return 100 * sum(x == y for x, y in zip(a, b, strict=True)) / len(a)


def report(folder: Path, rows: int) -> str:
    """The lines of a run folder."""
    lines = []
    for name in stored_runs(folder):
        found = {dtype: answered(folder, name, dtype, rows) for dtype in DTYPES}
        exact, half, whole = (found[dtype][0] for dtype in DTYPES)
        lines.append(
            f"{folder} {name}: {len(exact):,} rows; int8 answers as bf16 {same(whole, half):.2f} %, as fp32 "
            f"{same(whole, exact):.2f} %; bf16 as fp32 {same(half, exact):.2f} %"
        )
        for metric, value in found["fp32"][1].items():
            others = "  ".join(f"{dtype} {found[dtype][1][metric]:6.2f}" for dtype in DTYPES[1:])
            lines.append(f"  {metric:24} fp32 {value:6.2f}  {others}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report of every run folder."""
    parser = ArgumentParser(prog="int8_agreement", description=__doc__)
    parser.add_argument("folders", metavar="RUN", type=Path, nargs="+")
    parser.add_argument("--rows", type=int, default=ALL, help="rows a task, at most (default: all)")
    line = parser.parse_args(argv)
    for folder in line.folders:
        print(report(folder, line.rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
