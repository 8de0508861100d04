"""The steps of `gpu.sh`, one after the other, each with a time-out of its own; none stops the rest.

In $OUT, by default .gpu/out, `results.jsonl` gets a line a step (how it ended, and the last that it said) and before it
the lines that the step itself noted; `log.txt` gets all that was printed. LIMIT, in seconds, bounds every time-out: for
a rehearsal.

Steps of `gpu_steps` are forked from this process, which imports once what they share and itself never looks at the GPU.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import signal
import site
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess as Process
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PREPARED = ROOT / ".gpu" / "shared"
EXTENSION = ["compt_fast/native/build.py", "csrc", "compt_fast/native"]
UNABLE = 3
"""The exit code of a step that cannot go on here; it has said why."""
WITHOUT = {"COMPT_FAST_NATIVE": "0"}  # until the extension is built: a step that looked for it would build it itself


@dataclass(frozen=True)
class Step:
    """A name, the most seconds it may take, what Python is to run (if not `gpu_steps NAME`), and in which variables.

    One that is `beside` is only started where it stands; where its name stands again, it is waited for.
    """

    name: str
    seconds: float
    command: Sequence[str] = ()
    variables: dict[str, str] = field(default_factory=dict)
    beside: bool = False
    preloads: bool = True


STEPS = (
    Step("versions", 15, preloads=False),
    Step("install", 10, variables=WITHOUT, preloads=False),
    Step("extension", 0, EXTENSION, beside=True, preloads=False),
    Step("checkpoint", 0, variables=WITHOUT, beside=True),
    Step("every_method", 0, variables=WITHOUT, beside=True),
    Step("kernel_tests", 0, variables=WITHOUT, beside=True),
    Step("checkpoint", 20),
    Step("extension", 45, EXTENSION),
    Step("device_tests", 0, beside=True),
    Step("every_method", 55),
    Step("kernel_tests", 50),
    Step("device_tests", 50),
    Step("ceilings", 20),
    Step("one_run", 40),
    Step("many_runs", 45),
    Step("profile", 25),
    Step("compiled", 65),
    Step("evaluation", 40),
    Step("methods", 35),
    Step("widths", 45),
    Step("attention", 10),
    Step("compose", 25),
    Step("mini", 45),
    Step("sanitizer", 25),
    Step("kernel_grid", 55),
)


class Harness:
    """Starts steps and waits for them; keeps what they print and how they end."""

    def __init__(self, out: Path, scratch: Path) -> None:
        self._results, self._log = out / "results.jsonl", out / "log.txt"
        self._scratch = scratch
        self._beside: dict[str, Process] = {}
        os.environ |= {"OUT": str(out), "SCRATCH": str(scratch), "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # else a look for a GPU is one by CUDA: no fork survives it
        os.environ.setdefault("MAX_JOBS", "14")
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "9.0")
        if PREPARED.is_dir():
            os.environ.setdefault("COMPT_FAST_SHARED", str(PREPARED))

    def do(self, step: Step) -> None:
        """The step, or its beginning."""
        if step.beside:
            self._beside[step.name] = self._started(step)
            return
        begin = time.monotonic()
        process = self._beside.pop(step.name, None) or self._started(step)
        limit = min(step.seconds, float(os.environ.get("LIMIT", "inf")))
        process.join(limit)
        status = {0: "done", UNABLE: "cannot go on", None: "timed out"}.get(process.exitcode, "failed")
        end(process)
        self._note(step, status, time.monotonic() - begin, limit)

    def _started(self, step: Step) -> Process:
        if step.preloads:
            preload()
        process = multiprocessing.get_context("fork").Process(target=self._work, args=(step,))
        process.start()
        with contextlib.suppress(PermissionError, ProcessLookupError):  # it did so itself, and is at work or through
            os.setpgid(process.pid or 0, process.pid or 0)
        return process

    def _work(self, step: Step) -> None:
        """In the step's own process: what it prints goes to its log, and all that it starts ends with it."""
        with contextlib.suppress(PermissionError):  # the parent was sooner
            os.setpgid(0, 0)
        with self._printed(step).open("wb") as printed, open(os.devnull, "rb") as nothing:
            for mine, stream in ((nothing, 0), (printed, 1), (printed, 2)):
                os.dup2(mine.fileno(), stream)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        os.environ |= step.variables
        if step.command:
            os.execv(sys.executable, [sys.executable, *step.command])
        from benchmarks import gpu_steps

        sys.exit(gpu_steps.main(step.name))

    def _printed(self, step: Step) -> Path:
        return self._scratch / f"{step.name}.log"

    def _note(self, step: Step, status: str, seconds: float, limit: float) -> None:
        printed = self._printed(step).read_text(errors="replace")
        said = ([line.strip() for line in printed.splitlines() if line.strip()] or [""])[-1][-300:]
        line = {"step": step.name, "status": status, "seconds": round(seconds, 1), "limit": limit, "said": said}
        with self._log.open("a") as log, self._results.open("a") as results:
            log.write(f"== {step.name}: {status}\n{printed}\n")
            results.write(json.dumps(line) + "\n")
        print(f"{step.name:13} {status:13} {seconds:6.1f} s  {said[:100]}", flush=True)

    def close(self) -> None:
        """End what still goes on."""
        for process in self._beside.values():
            end(process)


def end(process: Process) -> None:
    """End a step with all that it started."""
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()


def preload() -> None:
    """Import what most steps need; what cannot be imported is for the steps to say."""
    site.addsitedir(sysconfig.get_paths()["purelib"])  # what has been installed since this process began
    with contextlib.suppress(Exception):
        importlib.import_module("benchmarks.engines")


def main(names: Sequence[str]) -> int:
    """All steps, or those with these names; 2 where one is unknown."""
    if unknown := set(names) - {step.name for step in STEPS}:
        known = ", ".join(dict.fromkeys(step.name for step in STEPS))
        print(f"error: no step {', '.join(sorted(unknown))}; there are {known}", file=sys.stderr)
        return 2
    out = Path(os.environ.get("OUT", ROOT / ".gpu" / "out")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        harness = Harness(out, Path(scratch))
        try:
            for step in STEPS:
                if not names or step.name in names:
                    harness.do(step)
        finally:
            harness.close()
    print(f"{out}/results.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
