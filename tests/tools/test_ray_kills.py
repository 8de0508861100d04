"""What the campaign on a cluster compares, and whom it would kill."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tools import ray_kills
from tools.ray_kills import Campaign, comparable, trainers


def test_only_trainers_of_its_own_cluster_are_found() -> None:
    code = "import sys, time; print(flush=True); time.sleep(60)"
    marked = {"COMPT_FAST_RAY_KILLS": "of-this-test"}
    processes = [
        subprocess.Popen([name, "-c", code], executable=sys.executable, env=env, stdout=subprocess.PIPE)
        for name, env in (("ray::Worker.train", marked), ("ray::Worker.train", {}), ("python", marked))
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        assert trainers("of-this-test") == [processes[0].pid]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_the_order_of_runs_does_not_count_and_all_else_does(tmp_path: Path) -> None:
    records = [{"run": run, "step": step, "loss": 0.5} for step in (1, 2) for run in ("a", "b")]
    for name, order in (("one", records), ("other", records[::-1])):
        (tmp_path / name).mkdir()
        lines = (json.dumps(record | {"tokens_per_second": len(name)}) for record in order)
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert comparable(tmp_path / "one") == comparable(tmp_path / "other")
    (tmp_path / "one" / "left").touch()
    assert comparable(tmp_path / "one") != comparable(tmp_path / "other")


@pytest.mark.parametrize("wrong", [False, True])
def test_a_driver_that_is_killed_is_begun_again_and_what_it_came_to_compared(
    wrong: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Campaign("address", "nobody", tmp_path, random.Random(0), {"metrics.jsonl": []}, 0.1)
    started: list[Path] = []

    def start(self: Campaign, folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        (folder / "metrics.jsonl").touch()
        if wrong:
            (folder / "doubled").touch()
        started.append(folder)
        seconds = 60 if len(started) == 1 else 0.5
        return subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])

    monkeypatch.setattr(ray_kills.Campaign, "_start", start)
    monkeypatch.setattr(made.chance, "random", lambda: 0.0)
    assert made.job(1, 1) == ("other than undisturbed: doubled" if wrong else "", Counter(drivers=1))
    assert len(started) == 2
