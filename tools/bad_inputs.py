"""Feed the commands bad input and report what they make of it.

    python -m tools.bad_inputs --count 1000 [--seed 0] [--only TEXT] [--json FILE]

Every case of `tests.helpers.bad_inputs` runs in a forked child that has all modules and the embedded
trunk in memory already. It must end with exit code 2 and one line that holds the case's wanted words,
within 5 seconds of computing. The exit code is 1 where one does not.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from compt_fast.runs import job
from tests.helpers.bad_inputs import Case, Materials, bad_cases, drawn, sound_cases
from tests.helpers.bad_inputs.folders import RUN
from tests.helpers.bad_inputs.settings import line
from tests.helpers.tiny_t5 import make_t5

CPU_SECONDS = 5  # a case computes at most so long,
WALL_SECONDS = 60  # and waits, for a pipe or for other processes, at most so long
MEMORY = 2**34  # bytes of address space
CRASHED = 70


@dataclass(frozen=True)
class Verdict:
    """What came of a case: `fault` is "" where it was refused as it should be."""

    name: str
    fault: str
    code: int
    seconds: float
    said: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10**6, help="cases, drawn from all (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases with this text in their names")
    parser.add_argument("--no-sound", action="store_true", help="leave out the same inputs with nothing wrong")
    parser.add_argument("--json", type=Path, help="write every verdict there")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        verdicts = []
        for verdict in _verdicts(Path(folder), given.count, given.seed, given.only, not given.no_sound):
            verdicts.append(verdict)
            if verdict.fault:
                print(
                    f"{verdict.fault:10} {verdict.seconds:5.1f} s  {verdict.name}\n    {verdict.said[-400:]}",
                    flush=True,
                )
    faults = collections.Counter(verdict.fault or "refused or sound as it should be" for verdict in verdicts)
    longest = max(verdicts, key=lambda verdict: verdict.seconds)
    print(", ".join(f"{count:,} {fault}" for fault, count in faults.most_common()), f"of {len(verdicts):,}")
    print(f"longest: {longest.seconds:.1f} s, {longest.name}")
    if given.json:
        given.json.write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=1))
    return 1 if any(verdict.fault for verdict in verdicts) else 0


def _verdicts(folder: Path, count: int, seed: int, only: str, sound: bool) -> Iterator[Verdict]:
    materials = _warm(folder)
    good = sound_cases(materials) if sound else []
    bad = drawn(bad_cases(materials), count, seed)
    for number, (case, is_good) in enumerate([*((c, True) for c in good), *((c, False) for c in bad)]):
        if only in case.name:
            yield _judged(case, folder / f"case-{number}", is_good)


def _warm(folder: Path) -> Materials:
    """Good things to spoil; on the way every module is imported and the embedded trunk opened, once."""
    torch.set_num_threads(1)
    job.open_trunk = cache(job.open_trunk)  # only the embedded one is asked for twice
    model = make_t5(folder / "model")
    work = folder / "made"
    work.mkdir()
    (work / "rows.jsonl").write_text('{"sentence": "a good film"}\n')
    with contextlib.chdir(work), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        for command in (
            line(work),
            ["evaluate", "out"],
            ["store", "add", f"out/prompts/{RUN}", "--store=store"],
            ["store", "add", f"out/prompts/{RUN}", "--store=store", "--replace"],
            ["predict", "--prompts=out", "--input=rows.jsonl", "--output=answers.jsonl"],
        ):
            if _command(command[0])(command[1:]):
                raise RuntimeError(f"sound input was refused: {command}")
    for name in ("about_scores", "about_choices", "about_prompts", "about_masks", "page"):
        importlib.import_module(f"compt_fast.analysis.{name}")
    for name in ("info", "report"):
        _command(name)
    return Materials(model, work / "out", work / "store")


def _command(name: str) -> Any:
    return importlib.import_module(f"compt_fast.{name}").main


def _judged(case: Case, folder: Path, is_good: bool) -> Verdict:
    folder.mkdir()
    line = case.make(folder)
    began = time.perf_counter()
    code, seconds, said = _run(line, folder)
    wall = time.perf_counter() - began
    shutil.rmtree(folder, ignore_errors=True)
    lower = said.lower()
    if code < 0:
        fault = "hang" if -code in (signal.SIGXCPU, signal.SIGALRM, signal.SIGKILL) else f"signal {-code}"
        seconds = max(seconds, wall)
    elif code == CRASHED:
        fault = "traceback"
    elif is_good:
        fault = "" if code == 0 else "refused"
    elif code == 0:
        fault = "accepted"
    elif code != 2:
        fault = f"exit {code}"
    elif not said.startswith("error: ") or said.count("\n") != 1:
        fault = "no line"
    elif any(word.lower() not in lower for word in case.wanted):
        fault = "unnamed"
    else:
        fault = ""
    lacking = [word for word in case.wanted if word.lower() not in lower] if fault == "unnamed" else ""
    return Verdict(case.name, fault, code, seconds, f"{lacking or ''} {said}".strip())


def _run(line: list[str], folder: Path) -> tuple[int, float, str]:
    """Exit code (below 0: the signal that ended it), seconds of computing and what stood on stderr."""
    errors = folder / ".stderr"
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os._exit(_in_child(line, folder, errors))
    _, status, usage = os.wait4(child, 0)
    said = errors.read_text(encoding="utf-8", errors="replace") if errors.exists() else ""
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, said


def _in_child(line: list[str], folder: Path, errors: Path) -> int:
    code = CRASHED
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.dup2(1, 0)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(WALL_SECONDS)
    os.chdir(folder)
    try:
        code = _command(line[0])(line[1:])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else CRASHED
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    sys.exit(main())
