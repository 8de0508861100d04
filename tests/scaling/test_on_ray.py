"""Jobs on a cluster of two machines of one processor each, as processes: the same bits, whatever ends on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from compt_fast import train
from compt_fast.scaling import conduct, queue
from compt_fast.utils.cluster import URGENT
from tests.helpers import jobs
from tests.helpers.jobs import REPOSITORY, Line

pytestmark = pytest.mark.slow
# Ray has read its way to authenticate when it was imported. The last one tells the processes of this cluster.
ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "COMPT_FAST_CLUSTER": uuid4().hex}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ |= ENVIRONMENT
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": URGENT}
    made = Cluster(initialize_head=True, head_node_args=head)
    made.add_node(num_cpus=1)
    try:
        yield made
    finally:
        made.shutdown()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture
def both(line: Line, tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Two folders of a job that was trained here and on the cluster at an address."""

    def trained(address: str, **flags: Any) -> tuple[Path, Path]:
        here, there = tmp_path / "here", tmp_path / "there"
        assert train.main(line(here, **flags)) == 0
        assert train.main([*line(there, **flags), f"--ray={address}"]) == 0
        return here, there

    return trained


def test_two_stages_are_those_of_one_machine_bit_for_bit(
    cluster: Cluster, both: Callable[..., tuple[Path, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {"method": "sil,spp", "seeds": "0,1", "source_steps": 3, "source_examples": 8, "select": "best"}
    here, there = both(cluster.address, **chosen, steps=8, checkpoint_every=3)
    jobs.equal(there, here, in_order=False)
    jobs.equal(there / "sources-m2", here / "sources-m2", in_order=False)
    said = capsys.readouterr().out.rpartition("Stage one")[2]
    assert "on 2 trainers of a cluster, each of --trainer-cpus 1" in said and "(4 of 4 runs ended)" in said
    assert not ray.is_initialized()
    assert sorted(path.name for path in there.iterdir()) == sorted(path.name for path in here.iterdir())


def test_runs_that_an_idle_trainer_takes_over_end_with_the_same_bits(
    cluster: Cluster, both: Callable[..., tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []

    def watched(*given: Any) -> dict[int, list[str]]:
        moves = queue.to_move(*given)
        moved.extend(name for names in moves.values() for name in names)
        return moves

    monkeypatch.setattr(queue, "WORTH", 0.0)
    monkeypatch.setattr(conduct, "SLICE", 0.05)
    monkeypatch.setattr(conduct, "to_move", watched)
    # The two dearest go to one trainer, and the other is soon through.
    here, there = both(cluster.address, method="pt-joint", steps="300,2", seeds="0,1", runs_at_once=2)
    jobs.equal(there, here, in_order=False)
    assert moved


def test_halving_over_trainers_leaves_survivors_with_the_bits_of_a_fleet(
    cluster: Cluster, line: Line, tmp_path: Path
) -> None:
    chosen = {"method": "pt-joint", "seeds": "0,1,2,3", "steps": 6, "halve": "sync", "rungs": "2,4"}
    here, there, whole = (tmp_path / name for name in ("here", "there", "whole"))
    assert train.main(line(here, **chosen)) == 0
    assert train.main([*line(there, **chosen), f"--ray={cluster.address}"]) == 0
    # Who had come when a run was stopped is another matter, and so is what is said of its place.
    results = [[result | {"reason": ""} for result in jobs.results(folder)["runs"]] for folder in (here, there)]
    assert results[0] == results[1]
    mine, theirs = jobs.prompts(there), jobs.prompts(here)
    assert all(torch.equal(mine[run][name], of[name]) for run, of in theirs.items() for name in of)
    assert sorted(result["status"] for result in jobs.results(there)["runs"]) == ["finished", *["stopped"] * 3]
    # What was stopped goes on elsewhere, by name.
    stopped = next(result["id"] for result in jobs.results(there)["runs"] if result["status"] == "stopped")
    assert train.main([f"--resume={there}", f"--runs={stopped}", f"--ray={cluster.address}"]) == 0
    assert train.main(line(whole, **{**chosen, "halve": None, "rungs": None})) == 0
    mine, theirs = jobs.prompts(there), jobs.prompts(whole)
    assert all(torch.equal(mine[stopped][name], tensor) for name, tensor in theirs[stopped].items())


def trainers() -> dict[int, str]:
    """The processes of the clusters of this test that train, and what they do."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes().decode(errors="replace")
            ours = ENVIRONMENT["COMPT_FAST_CLUSTER"] in (folder / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if title.startswith("ray::Worker") and ours:
            found[int(folder.name)] = title
    return found


def until(true: Callable[[], object], process: subprocess.Popen[str], seconds: float = 300) -> None:
    """Wait until something is `true`, as long as a process lives."""
    end = time.monotonic() + seconds
    while not true():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)


def test_trainers_and_a_machine_and_the_driver_may_end_and_no_bit_is_another(
    cluster: Cluster, line: Line, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    chosen = {"method": "pt-joint", "seeds": "0,1,2,3", "steps": 400, "checkpoint_every": 5, "runs_at_once": 2}
    assert train.main(line(here, **chosen)) == 0
    command = [sys.executable, "-m", "compt_fast.train", *line(there, **chosen), f"--ray={cluster.address}"]
    with open(tmp_path / "log", "w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, text=True, cwd=REPOSITORY)

        def checkpoints() -> int:
            return len(list(there.glob("checkpoints/*")))

        until(lambda: len(trainers()) == 2 and checkpoints(), process)
        os.kill(min(trainers()), signal.SIGKILL)
        until(lambda: "a trainer ended" in (tmp_path / "log").read_text(), process)
        node = cluster.add_node(num_cpus=1)
        until(lambda: len(trainers()) >= 2, process)
        cluster.remove_node(node, allow_graceful=False)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM, (tmp_path / "log").read_text()
    assert "go on with: python -m compt_fast.train --resume" in (tmp_path / "log").read_text()
    assert train.main([f"--resume={there}"]) == 0  # on this machine alone
    jobs.equal(there, here, in_order=False)
