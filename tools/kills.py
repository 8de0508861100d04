"""Kill small jobs of `train` wherever it hurts, go on with them, and compare every bit: `python -m tools.kills`.

A job is killed before one of its operations on files, in the middle of one that writes, or at a random moment; or
the checkpoint that it left is damaged too. Then `--resume` (or, where the job had not begun, the same command) must
end with the prompts, scores and losses of a job that nobody killed, and leave nothing half written.

Every job is a fork of one process that has imported everything and opened the trunk, so that a kill costs about a
second.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import safe_open

SMALL = ["--steps=3", "--shots=2", "--eval-size=2", "--scoring=rank", "--prompt-length=2", "--checkpoint-every=1"]
SPACE = Path(__file__).parents[1] / "recipes" / "spaces" / "tiny.toml"
SEARCH = ["--trials=3", "--confirm=1", "--runs-at-once=2"]
JOBS = {
    "two runs, one after the other": ["--method=pt,spp", "--tasks=mini_rte", "--runs-at-once=1"],
    "halving": ["--method=pt", "--tasks=mini_rte", "--seeds=0,1,2", "--halve", "--rungs=1,2", "--runs-at-once=2"],
    "search": [f"--search={SPACE}", "--method=spp", "--tasks=mini_rte", *SEARCH, "--halve", "--rungs=1"],
    "two stages": ["--method=pi,sil", "--tasks=mini_rte,mini_qnli", "--source-steps=2", "--source-examples=8"],
}
SURVIVED, KILLED = 0, 137
CHECKPOINTS = "checkpoints/step-*.safetensors"
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


@dataclass(frozen=True)
class Fault:
    """How a job is ended: before its operation `at` on files ("operation"), in the middle of the write `at` ("torn"),
    after `at` milliseconds ("moment"), and so with a bit of its newest checkpoint turned ("damage").
    """

    kind: str
    at: int


class Interposed:
    """In a job's process: counts what it does to files under `root`, and ends it at the fault."""

    def __init__(self, root: Path, fault: Fault | None) -> None:
        self.root, self.fault = str(root), fault
        self.operations = self.writes = 0

    def install(self) -> None:
        from compt_fast.prompts import artifact
        from compt_fast.training import checkpoint
        from compt_fast.utils import files

        sys.addaudithook(self._heard)
        own: Any
        for module, name in ((files, "exchange"), (os, "fsync")):
            setattr(module, name, self._before(getattr(module, name)))
        for own in (checkpoint, artifact):
            own.save_file = self._writing(own.save_file)
        Path.write_text = self._writing(Path.write_text)  # type: ignore[method-assign]

    def _heard(self, event: str, given: tuple[Any, ...]) -> None:
        opened = event == "open" and isinstance(given[2], int) and given[2] & WRITES
        if (opened or event in EVENTS) and str(given[0]).startswith(self.root):
            self._operation()

    def _operation(self) -> None:
        self.operations += 1
        if self.fault == Fault("operation", self.operations):
            os._exit(KILLED)

    def _before(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any) -> Any:
            self._operation()
            return act(*given)

        return counted

    def _writing(self, act: Callable[..., Any]) -> Callable[..., Any]:
        """A write that may end with half of the file there."""

        def written(*given: Any, **named: Any) -> Any:
            path = next(str(value) for value in given if isinstance(value, Path))
            result = act(*given, **named)
            if path.startswith(self.root):
                self.writes += 1
                if self.fault == Fault("torn", self.writes):
                    with open(path, "r+b") as file:
                        file.truncate(os.path.getsize(path) // 2)
                    os._exit(KILLED)
            return result

        return written


def forked(line: list[str], root: Path, fault: Fault | None = None) -> tuple[int, str, dict[str, int]]:
    """Run `train` with a command line in a fork: its exit code, what it said, and how many operations it counted."""
    from compt_fast import train

    log, counts = root / "log", root / "counts"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.stdout = sys.stderr = open(log, "a", buffering=1)  # noqa: SIM115  (till the process ends)
            interposed = Interposed(root / "job", fault)
            interposed.install()
            code = train.main(line)
            counts.write_text(json.dumps({"operation": interposed.operations, "torn": interposed.writes}))
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    if fault is not None and fault.kind in ("moment", "damage"):
        time.sleep(fault.at / 1000)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = json.loads(counts.read_text()) if counts.exists() else {}
    counts.unlink(missing_ok=True)
    return status, log.read_text(errors="replace"), found


def content(folder: Path) -> dict[str, Any]:
    """All of a run folder and its stages that has to be the same: tensors as bytes, scores and losses."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if "checkpoints" in path.parts or path.is_dir():
            continue
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                keys = list(file.keys())
                found[name] = {key: file.get_tensor(key).numpy().tobytes() for key in keys}
        elif path.name == "results.json":
            found[name] = json.loads(path.read_text())["runs"]
        elif path.name == "metrics.jsonl":
            found[name] = [json.loads(line) | {"tokens_per_second": 0} for line in path.read_text().splitlines()]
        else:
            found[name] = None  # that it is there, and nothing else is
    return found


class Victim:
    """One of `JOBS`, what it comes to when nobody kills it, and what it does to files until then."""

    def __init__(self, name: str, work: Path) -> None:
        self.root = work
        self.folder = work / "job"
        self.line = [*JOBS[name], *SMALL, f"--out={self.folder}"]
        began = time.monotonic()
        code, said, self.counts = forked(self.line, work)
        assert code == SURVIVED, said
        self.milliseconds = int(1000 * (time.monotonic() - began))
        self.whole = content(self.folder)

    def check(self, faults: list[Fault]) -> str:
        """Begin, and go on, with a fault each time, then to the end; "" or what is wrong."""
        shutil.rmtree(self.folder, ignore_errors=True)
        line = self.line
        for fault in faults:
            code, said = self._go(line, fault)
            if code not in (SURVIVED, KILLED, -signal.SIGKILL):
                return f"it did not go on ({code}): {said}"
            if fault.kind == "damage":
                damage(self.folder, random.Random(fault.at))
            line = self._next()
        code, said = self._go(line)
        if code != SURVIVED:
            return f"it did not go on ({code}): {said}"
        found = content(self.folder)
        wrong = [name for name in found.keys() | self.whole.keys() if found.get(name, "") != self.whole.get(name, "")]
        return f"other than in a job that nobody killed: {', '.join(sorted(wrong))}" if wrong else ""

    def _go(self, line: list[str], fault: Fault | None = None) -> tuple[int, str]:
        """Run a line; where its only checkpoint is damaged do what the message says, and begin again."""
        code, said, _ = forked(line, self.root, fault)
        if code == 2 and "a damaged checkpoint" in said and len(list(self.folder.rglob(CHECKPOINTS))) == 1:
            shutil.rmtree(next(self.folder.rglob(CHECKPOINTS)).parent)
            code, said, _ = forked(self._next(), self.root, fault)
        return code, said

    def _next(self) -> list[str]:
        return [f"--resume={self.folder}"] if (self.folder / "config.json").exists() else self.line


def damage(folder: Path, chance: random.Random) -> None:
    """Turn a bit of the newest checkpoint under `folder`, or cut the file, if there is one."""
    found = sorted(folder.rglob(CHECKPOINTS), key=lambda path: (len(path.parts), path.name))
    if not found:
        return
    whole = bytearray(found[-1].read_bytes())
    at = chance.randrange(len(whole))
    if chance.random() < 0.2:
        del whole[at:]
    else:
        whole[at] ^= 1 << chance.randrange(8)
    found[-1].write_bytes(whole)


def everywhere(victim: Victim) -> Iterator[list[Fault]]:
    """A kill at every operation on files, and in the middle of every write."""
    for kind, count in victim.counts.items():
        for at in range(1, count + 1):
            yield [Fault(kind, at)]


def anywhere(victim: Victim, chance: random.Random) -> Iterator[list[Fault]]:
    """Kills at random moments, one or two of a job, some with a damaged checkpoint; without end."""
    while True:
        kinds = chance.choices(("moment", "damage", "operation"), (4, 2, 1), k=chance.choice((1, 1, 2)))
        yield [
            Fault(kind, chance.randrange(victim.counts[kind] if kind == "operation" else victim.milliseconds))
            for kind in kinds
        ]


def prepare() -> None:
    """Train once, so that what jobs import and open is there; with one thread, as forks survive no pool of them."""
    os.environ |= {"TOKENIZERS_PARALLELISM": "false"}
    import torch

    from compt_fast import train
    from compt_fast.runs import job

    torch.set_num_threads(1)
    job.open_trunk = lru_cache(job.open_trunk)  # of which every fork has a copy
    with (
        tempfile.TemporaryDirectory(prefix="kills-") as work,
        open(os.devnull, "w") as nothing,
        contextlib.redirect_stdout(nothing),
    ):
        assert train.main([*JOBS["two stages"], *SMALL, f"--out={work}/job"]) == SURVIVED


def main(argv: list[str] | None = None) -> int:
    """Kill; prints what went wrong and returns 1 if something did."""
    parser = argparse.ArgumentParser(prog="python -m tools.kills", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="kills at random moments of each job (200)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (0)")
    parser.add_argument("--skip-operations", action="store_true", help="no kill at every operation on files")
    given = parser.parse_args(argv)
    prepare()
    failures, tried = [], Counter[str]()
    for name in JOBS:
        with tempfile.TemporaryDirectory(prefix="kills-") as work:
            victim = Victim(name, Path(work))
            print(f"{name}: {victim.counts} in {victim.milliseconds} ms", flush=True)
            random_ones = anywhere(victim, random.Random(f"{given.seed} {name}"))
            plans = [] if given.skip_operations else list(everywhere(victim))
            plans += [next(random_ones) for _ in range(given.count)]
            for number, faults in enumerate(plans, start=1):
                wrong = victim.check(faults)
                tried.update(fault.kind for fault in faults)
                if wrong:
                    failures.append(f"{name}, {faults}: {wrong}")
                    print(f"FAILED {failures[-1]}", flush=True)
                if number % 50 == 0:
                    print(f"  {number} of {len(plans)} jobs, {len(failures)} failures", flush=True)
    print(f"{sum(tried.values())} kills {dict(tried)}: {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
