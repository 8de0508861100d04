"""How many runs train side by side where nobody says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from compt_fast import train
from compt_fast.errors import InputError
from compt_fast.fleet import width as module
from compt_fast.fleet.job import Job
from compt_fast.fleet.trainer import Trainer
from compt_fast.fleet.width import MOST, UNKNOWN, free_memory, settled
from compt_fast.trunk.packed import PackedTrunk
from tests.helpers import jobs
from tests.helpers.jobs import Line, equal

MIB = 2**20
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def job(tiny_t5: Path, toys: list[Path]) -> Job:
    return jobs.opened(jobs.settings(tiny_t5, toys, method="pt,spp,silp", runs_at_once="auto"))


@pytest.mark.parametrize(
    ("free", "run", "width"),
    [(1000 * MIB, 100 * MIB, 5), (1000 * MIB, 600 * MIB, 1), (10, 600 * MIB, 1), (10**15, 0, MOST), (None, 1, UNKNOWN)],
)
def test_as_many_as_half_of_the_free_memory_holds(
    free: int | None, run: int, width: int, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "free_memory", lambda device: free)
    monkeypatch.setattr(module, "_bytes_of_a_run", lambda *rest: run)
    found = settled(job, tmp_path)
    assert found.flags["runs_at_once"] == width and found.runs == job.runs
    again = settled(found, tmp_path)
    assert again is found, "a number is kept"


def test_a_step_of_the_largest_run_is_measured_and_leaves_nothing(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    kept: list[torch.Tensor] = []
    step = Trainer.train_step

    def counted(self: Trainer, *rest: object) -> object:
        taken.extend(run.id for run in self.runs)
        kept.append(torch.ones(64 * MIB))  # so that a growth of 256 MiB is sure to be seen
        return step(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "train_step", counted)
    grown = module._bytes_of_a_run(job, tmp_path)
    assert 256 * MIB <= grown < 1024 * MIB
    most = max(job.runs, key=lambda run: (run.shape.target_length, run.parameters))
    assert taken == [most.id] and list(tmp_path.iterdir()) == []


def test_a_run_that_does_not_fit_is_said_before_the_job_begins(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*rest: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PackedTrunk, "row_losses", failing)
    with pytest.raises(InputError, match="out of memory with the run .* alone: lower --batch-size"):
        settled(job, tmp_path)


def test_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    1024 kB\n"}

    def read(path: Path) -> str:
        if str(path) not in texts:
            raise FileNotFoundError
        return texts[str(path)]

    monkeypatch.setattr(Path, "read_text", read)
    assert free_memory(CPU) == MIB
    texts |= {"/sys/fs/cgroup/memory.max": "max\n", "/sys/fs/cgroup/memory.current": "1000\n"}
    assert free_memory(CPU) == MIB
    texts["/sys/fs/cgroup/memory.max"] = "3000\n"
    assert free_memory(CPU) == 2000
    texts.clear()
    assert free_memory(CPU) is None


def test_a_job_keeps_the_number_and_learns_the_same(line: Line, tmp_path: Path) -> None:
    chosen = {"method": "spp,pt", "seeds": "0,1"}
    assert train.main(line(tmp_path / "auto", **chosen, runs_at_once=None)) == 0
    number = json.loads((tmp_path / "auto" / "config.json").read_text())["flags"]["runs_at_once"]
    assert isinstance(number, int) and number >= 1
    assert train.main(line(tmp_path / "number", **chosen, runs_at_once=number)) == 0
    equal(tmp_path / "auto", tmp_path / "number")


@pytest.mark.gpu
def test_a_gpus_memory_is_measured(tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    job = jobs.opened(jobs.settings(tiny_t5, toys, method="pt", runs_at_once="auto", device="cuda"))
    assert module._bytes_of_a_run(job, tmp_path) > 0
    assert settled(job, tmp_path).flags["runs_at_once"] == MOST
