"""The steps of `gpu.sh`, one after the other, each with a time-out of its own; none stops the rest.

In $OUT, by default .gpu/out, `results.jsonl` gets a line a step (how it ended, and the last that it said) and before it
the lines that the step itself noted; `log.txt` gets all that was printed. Nothing but the standard library is needed
here. LIMIT, in seconds, bounds every time-out: for a rehearsal.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
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

    @property
    def arguments(self) -> list[str]:
        return list(self.command) or ["-m", "benchmarks.gpu_steps", self.name]


STEPS = (
    Step("versions", 30),
    Step("install", 15, variables=WITHOUT),
    Step("extension", 0, EXTENSION, beside=True),
    Step("checkpoint", 0, variables=WITHOUT, beside=True),
    Step("smoke", 45, variables=WITHOUT),
    Step("every_method", 0, variables=WITHOUT, beside=True),
    Step("kernel_tests", 65, variables=WITHOUT),
    Step("every_method", 40),
    Step("checkpoint", 15),
    Step("extension", 35, EXTENSION),
    Step("device_tests", 40),
    Step("ceilings", 15),
    Step("one_run", 40),
    Step("many_runs", 40),
    Step("widths", 60),
    Step("methods", 30),
    Step("evaluation", 40),
    Step("attention", 15),
    Step("compose", 25),
    Step("profile", 18),
    Step("compiled", 28),
    Step("mini", 25),
    Step("sanitizer", 25),
)


class Harness:
    """Starts steps and waits for them; keeps what they print and how they end."""

    def __init__(self, out: Path, scratch: Path) -> None:
        self._results, self._log = out / "results.jsonl", out / "log.txt"
        self._scratch = scratch
        self._beside: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = os.environ | {
            "OUT": str(out),
            "SCRATCH": str(scratch),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "MAX_JOBS": os.environ.get("MAX_JOBS", "14"),
            "TORCH_CUDA_ARCH_LIST": os.environ.get("TORCH_CUDA_ARCH_LIST", "9.0"),
        }
        if PREPARED.is_dir():
            self._environment.setdefault("COMPT_FAST_SHARED", str(PREPARED))

    def do(self, step: Step) -> None:
        """The step, or its beginning."""
        if step.beside:
            self._beside[step.name] = self._started(step)
            return
        begin = time.monotonic()
        process = self._beside.pop(step.name, None) or self._started(step)
        limit = min(step.seconds, float(os.environ.get("LIMIT", "inf")))
        try:
            code = process.wait(limit)
            status = {0: "done", UNABLE: "cannot go on"}.get(code, "failed")
        except subprocess.TimeoutExpired:
            status = "timed out"
            end(process)
        self._note(step, status, time.monotonic() - begin, limit)

    def _started(self, step: Step) -> subprocess.Popen[bytes]:
        with self._printed(step).open("wb") as printed:
            return subprocess.Popen(
                [sys.executable, *step.arguments],
                cwd=ROOT,
                env=self._environment | step.variables,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

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


def end(process: subprocess.Popen[bytes]) -> None:
    """End a step with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


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
