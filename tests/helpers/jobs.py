"""Small jobs over a tiny trunk: tasks, flags, training within the process, and what a folder holds."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from compt_fast.config.flags import read_flags
from compt_fast.models.api import Trunk
from compt_fast.prompts.parameters import parameter_shapes
from compt_fast.runs.job import Job, open_job
from compt_fast.training.cohort import Cohort
from compt_fast.training.interrupts import Interrupts
from compt_fast.training.loop import Trainer
from compt_fast.training.monitor import Monitor
from compt_fast.training.plan import Run, plan_runs
from compt_fast.training.roster import Start, from_nothing

Line = Callable[..., list[str]]
Command = Callable[[list[str]], int]
REPOSITORY = Path(__file__).resolve().parents[2]
WORDS = "man woman dog cat house city book film good bad red small reads sees gave went".split()


def toy_task(folder: Path, name: str = "toy", rows: int = 60, *, score: bool = False) -> Path:
    """A task file and its rows: sentences of one to nine words, two classes or a score."""
    rng = random.Random(name)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(rows):
        text = " ".join(rng.choices(WORDS, k=rng.randint(1, 9)))
        lines.append(json.dumps({"sentence": text, "label": i % 6 * 1.0 if score else i % 2}))
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    kind = "score = {low = 0, high = 5, step = 1}" if score else 'labels = ["bad", "good"]'
    path = folder / f"{name}.toml"
    path.write_text(f'name = "{name}"\nfields = ["sentence"]\n{kind}\ndata = "{name}.jsonl"\n')
    return path


def settings(trunk: Path, task_files: list[Path], **changes: Any) -> dict[str, str]:
    """A small job's flags by key, as text; `changes` replace or add some."""
    chosen: dict[str, Any] = {
        "model": trunk,
        "task_file": ",".join(map(str, task_files)),
        "method": "spp",
        "shots": 4,
        "steps": 4,
        "batch_size": 4,
        "prompt_length": 2,
        "max_source_length": 32,
        "eval_size": 6,
        "scoring": "rank",
    }
    return {k: str(v) for k, v in (chosen | changes).items() if v is not None}


def arguments(chosen: dict[str, str], out: Path) -> list[str]:
    """The command line of `train` for the flags of `settings`."""
    line = [f"--{key.replace('_', '-')}={value}" for key, value in chosen.items()]
    return [*line, f"--out={out}"]


def opened(chosen: dict[str, str]) -> Job:
    """The job of the flags of `settings`."""
    return open_job(read_flags(chosen, None))


def planned(trunk: Trunk, tasks: Sequence[str], chosen: dict[str, str]) -> list[Run]:
    """The runs of the flags of `settings` for these tasks."""
    return plan_runs(read_flags(chosen, None), tasks=tasks, d_model=trunk.d_model)


def drawn(run: Run) -> dict[str, Tensor]:
    """Values in the place of the stored prompts that a run starts from, the same for every run."""
    sizes, config = parameter_shapes(run.shape), run.config
    inits = {"source_tokens": config.source_init, "private_tokens": config.private_init}
    generator = torch.Generator().manual_seed(7)
    stored = [name for name, init in inits.items() if init != "random" and name in sizes]
    return {name: torch.randn(sizes[name], generator=generator) for name in stored}


def taught(run: Run) -> Tensor | None:
    """Prompts in the place of the stored ones that a run learns from, the same for every run."""
    shape = run.shape
    if not run.config.distils:
        return None
    generator = torch.Generator().manual_seed(8)
    return torch.randn(shape.tasks, shape.target_length, shape.d_model, generator=generator)


def train(job: Job, runs: list[Run], folder: Path, start: Start = from_nothing, **changes: Any) -> Trainer:
    """Train and score `runs` in a new folder, under the job's settings but for the `changes`."""
    folder.mkdir(parents=True)
    settings = replace(job.settings, **changes)
    trainer = Trainer(runs, job.trunk, job.trunk_hash, job.data, settings, folder, start, teachers=taught)
    total, console = trainer.total_steps, Console(quiet=True)
    with Monitor(folder, total, console) as monitor, Interrupts() as interrupts:
        trainer.train(monitor, interrupts)
    return trainer


def poison(monkeypatch: pytest.MonkeyPatch, run_id: str, name: str, value: float) -> None:
    """Make one number of one run's parameters `value` as it enters."""
    admit = Cohort.admit

    def admitted(self: Cohort, *members: Any) -> None:
        admit(self, *members)
        for place, member in enumerate(members, len(self.members) - len(members)):
            if member.run.id == run_id:
                assert self.bank is not None
                with torch.no_grad():
                    self.bank.params[name][place].view(-1)[0] = value

    monkeypatch.setattr(Cohort, "admit", admitted)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of a folder's `metrics.jsonl`."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path, run: str) -> list[float]:
    """The losses of one run, step by step."""
    return [record["loss"] for record in metrics(folder) if record["run"] == run]


def results(folder: Path) -> dict[str, Any]:
    """The content of `results.json`."""
    content: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return content


def prompts(folder: Path) -> dict[str, dict[str, Tensor]]:
    """The stored prompts' tensors of every run of a folder."""
    files = sorted((folder / "prompts").glob("*/prompts.safetensors"))
    return {path.parent.name: load_file(path) for path in files}


def equal(a: Path, b: Path, *, in_order: bool = True) -> None:
    """Two run folders hold the same prompts, scores and losses, bit for bit; with `in_order` the steps of different
    runs in the same order, too, and the places that runs had among those before them when they were stopped.
    """
    mine, theirs = prompts(a), prompts(b)
    assert mine.keys() == theirs.keys() and mine
    for run, tensors in theirs.items():
        assert mine[run].keys() == tensors.keys()
        assert all(torch.equal(mine[run][name], t) for name, t in tensors.items()), run
    placeless = [[r if in_order else r | {"reason": None} for r in results(folder)["runs"]] for folder in (a, b)]
    assert placeless[0] == placeless[1]
    timeless = [[r | {"tokens_per_second": 0} for r in metrics(folder)] for folder in (a, b)]
    if not in_order:
        for records in timeless:
            records.sort(key=lambda record: (record["run"], record["step"]))
    assert timeless[0] == timeless[1]


def error_of(capsys: pytest.CaptureFixture[str], command: Command, argv: list[str]) -> str:
    """The message of a command that must end with 2 and say one line on stderr."""
    capsys.readouterr()
    assert command(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


def spawn(code: str, *line: str) -> subprocess.CompletedProcess[str]:
    """A Python process that runs `code` with `line` as its arguments."""
    return subprocess.run(
        [sys.executable, "-c", code, *line],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
