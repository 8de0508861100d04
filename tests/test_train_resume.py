"""Interrupted and killed jobs of `train`, and how they go on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from compt_fast import evaluate, train
from compt_fast.runs.folder import claimed
from compt_fast.training import cohort
from compt_fast.training.checkpoint import load_latest
from compt_fast.training.monitor import Monitor
from tests.helpers import jobs
from tests.helpers.jobs import Line, equal, error_of

TOTAL = 8  # steps of the interrupted runs
FEATURES = {
    "router and selection": {
        "method": "spp,pt-joint",
        "router": "relaxed-bernoulli",
        "select": "best",
        "runs_at_once": 1,
    },
    "input gates": {"method": "spp,scp", "gates": "input", "seeds": "0,1", "runs_at_once": 3},
}
INTERRUPTED = FEATURES | {"input updates": {"method": "dept,adept,spp", "runs_at_once": 3}}
WRAPPER = """
import os, signal, sys
from compt_fast import train
from compt_fast.training.monitor import Monitor
number, at, step = int(sys.argv[1]), int(sys.argv[2]), Monitor.step
def counted(self, records, **speed):
    global at
    step(self, records, **speed)
    self.offset  # flushes what no checkpoint knows
    at -= 1
    if at == 0:
        os.kill(os.getpid(), number)
Monitor.step = counted
sys.exit(train.main(sys.argv[3:]))
"""


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Makes this process send itself a signal after so many training steps."""

    def after(number: int, steps: int) -> None:
        left, step = steps, Monitor.step

        def counted(self: Monitor, *rest: Any, **named: Any) -> None:
            nonlocal left
            step(self, *rest, **named)
            left -= 1
            if left == 0:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(Monitor, "step", counted)

    return after


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupted_job_goes_on_with_the_same_bits(
    name: str,
    number: int,
    code: int,
    line: Line,
    tmp_path: Path,
    signals: Callable[[int, int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = {"steps": TOTAL, "checkpoint_every": 3, **INTERRUPTED[name]}
    assert train.main(line(tmp_path / "whole", **flags)) == 0
    capsys.readouterr()
    at = random.randint(1, 2 * TOTAL - 1)
    signals(number, at)
    out = tmp_path / "cut"
    assert train.main(line(out, **flags)) == code, f"interrupted at step {at}"
    said = capsys.readouterr().err
    assert said == (f"interrupted at step {at}; go on with: python -m compt_fast.train --resume {out}\n")
    assert "unfinished" in {run["status"] for run in jobs.results(out)["runs"]}
    assert train.main([f"--resume={out}"]) == 0, f"resumed from step {at}"
    equal(out, tmp_path / "whole")


def test_a_job_that_goes_on_says_what_is_done_and_what_is_left(
    line: Line, tmp_path: Path, signals: Callable[[int, int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cut"
    signals(signal.SIGTERM, TOTAL + 3)
    assert train.main(line(out, method="spp,pt-joint,mst", steps=TOTAL, runs_at_once=1)) == 143
    said = capsys.readouterr().out
    assert "3 runs (spp, pt-joint, mst), 1 side by side\n" in said and f"\n{3 * TOTAL} steps in all; " in said
    path = next((out / "checkpoints").iterdir())  # as if the first part had taken long
    checkpoint = load_latest(path.parent)
    assert checkpoint is not None
    state = checkpoint.state | {"wall_seconds": 600.0, "format": 1}  # which had no hashes
    del state["job"]
    tensors = {f"{run}/{name}": t for run, of in checkpoint.tensors.items() for name, t in of.items()}
    save_file(tensors, path, metadata={"state": json.dumps(state)})
    assert train.main([f"--resume={out}", "--seeds=0,1"]) == 0
    said = capsys.readouterr().out
    assert "6 runs (spp, pt-joint, mst): 1 done, 5 left (1 begun), 1 side by side\n" in said
    assert f"\n{6 * TOTAL} steps in all, {5 * TOTAL - 3} of them left; " in said
    assert "10 min" in said and " with the job's earlier parts, 0 min" in said
    assert train.main([f"--resume={out}"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("6 runs (spp, pt-joint, mst): done, nothing is left to train\n") and "steps" not in said


def test_a_signal_while_runs_are_scored(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of three runs is interrupted in its evaluation."""
    flags = {"method": "spp,pt-joint,mst", "steps": 3, "eval_batch_size": 4}
    assert train.main(line(tmp_path / "whole", **flags)) == 0
    save, calls = cohort.save_prompts, [0]

    def saved(*rest: Any) -> None:
        save(*rest)
        calls[0] += 1
        if calls[0] == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(cohort, "save_prompts", saved)
    assert train.main(line(tmp_path / "cut", **flags)) == 130
    statuses = [run["status"] for run in jobs.results(tmp_path / "cut")["runs"]]
    assert statuses == ["finished", "unfinished", "unfinished"]
    assert train.main([f"--resume={tmp_path / 'cut'}"]) == 0
    equal(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("name", FEATURES)
def test_a_killed_job_goes_on_with_the_same_bits(name: str, line: Line, tmp_path: Path) -> None:
    flags = {"steps": TOTAL, "checkpoint_every": 3, **FEATURES[name]}
    assert train.main(line(tmp_path / "whole", **flags)) == 0
    at = random.randint(1, 2 * TOTAL - 1)
    done = jobs.spawn(WRAPPER, str(int(signal.SIGKILL)), str(at), *line(tmp_path / "cut", **flags))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(jobs.metrics(tmp_path / "cut")) >= at
    assert train.main([f"--resume={tmp_path / 'cut'}"]) == 0, f"killed at step {at}"
    equal(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.slow
def test_a_process_that_gets_sigterm_ends_with_143(line: Line, tmp_path: Path) -> None:
    argv = line(tmp_path / "cut", steps=TOTAL, method="pt-joint")
    done = jobs.spawn(WRAPPER, str(int(signal.SIGTERM)), "2", *argv)
    assert done.returncode == 143 and "interrupted at step 2; go on with" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_goes_on_and_is_scored_again_from_another_working_directory(
    tiny_t5: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    signals: Callable[[int, int], None],
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    jobs.toy_task(tmp_path / "here", "toy")
    (tmp_path / "here" / "trunk").symlink_to(tiny_t5)
    monkeypatch.chdir(tmp_path / "here")
    signals(signal.SIGINT, 2)
    chosen = jobs.settings(Path("trunk"), [Path("toy.toml")], method="pt-joint")
    assert train.main(jobs.arguments(chosen, Path("run"))) == 130
    monkeypatch.chdir(tmp_path / "there")
    assert train.main(["--resume=../here/run"]) == 0
    assert evaluate.main(["../here/run"]) == 0


def test_a_job_killed_before_its_first_checkpoint_begins_again(
    line: Line, tmp_path: Path, signals: Callable[[int, int], None]
) -> None:
    assert train.main(line(tmp_path / "whole")) == 0
    signals(signal.SIGTERM, 2)
    assert train.main(line(tmp_path / "cut")) == 143
    shutil.rmtree(tmp_path / "cut" / "checkpoints")
    assert train.main([f"--resume={tmp_path / 'cut'}"]) == 0
    equal(tmp_path / "cut", tmp_path / "whole")


def test_resuming_a_finished_job_only_prints_its_table(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(line(tmp_path / "run")) == 0
    before = jobs.metrics(tmp_path / "run")
    capsys.readouterr()
    assert train.main([f"--resume={tmp_path / 'run'}"]) == 0
    assert "spp-n3-k4" in capsys.readouterr().out
    assert jobs.metrics(tmp_path / "run") == before


def test_resume_takes_more_runs_alone_and_needs_a_whole_run_folder(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train.main(line(out)) == 0
    assert "began with the run spp-n3-k4-s0" in error_of(capsys, train.main, [f"--resume={out}", "--seeds=1"])
    assert "leave out --out" in error_of(capsys, train.main, [f"--resume={out}", "--out=elsewhere"])
    assert "began with --eval-size 6" in error_of(capsys, train.main, [f"--resume={out}", "--eval-size=5"])
    assert "leave out --config" in error_of(capsys, train.main, [f"--resume={out}", "--config=a.toml"])
    assert "no run folder" in error_of(capsys, train.main, [f"--resume={tmp_path}"])

    config = json.loads((out / "config.json").read_text())
    (path,) = (out / "checkpoints").iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:40])
    assert "a damaged checkpoint" in error_of(capsys, train.main, [f"--resume={out}"])
    path.write_bytes(content)

    changed = config | {"trunk": config["trunk"] | {"sha256": "0" * 64}}
    (out / "config.json").write_text(json.dumps(changed))
    assert "is not the one that the job began with" in error_of(capsys, train.main, [f"--resume={out}"])
    (out / "config.json").write_text("{")
    assert "config.json: not well-formed json" in error_of(capsys, train.main, [f"--resume={out}"])


def test_a_checkpoint_of_another_job(
    line: Line,
    tmp_path: Path,
    signals: Callable[[int, int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, changes in (("pt", {"method": "pt-joint"}), ("longer", {"prompt_length": 3})):
        signals(signal.SIGTERM, 1)
        assert train.main(line(tmp_path / name, **changes)) == 143
    signals(signal.SIGTERM, 1)
    assert train.main(line(tmp_path / "run")) == 143
    (own,) = (tmp_path / "run" / "checkpoints").iterdir()
    for name in ("pt", "longer"):
        shutil.copy(tmp_path / name / "checkpoints" / own.name, own)
        said = error_of(capsys, train.main, [f"--resume={tmp_path / 'run'}"])
        assert "not a checkpoint of this job" in said


@pytest.mark.parametrize("name", ["../../victim", "../..", "/victim", ".hidden", "a/b"])
def test_ids_that_lead_out_of_the_run_folder(
    name: str, line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "run"
    assert train.main(line(out, method="mst", steps=1)) == 0
    (tmp_path / "deep" / "victim").mkdir()
    (tmp_path / "deep" / "victim" / "file").touch()
    shutil.rmtree(out / "checkpoints")
    path = out / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"runs": {name: content["runs"]["mst-n1-k4-s0"]}}))
    said = error_of(capsys, train.main, [f"--resume={out}"])
    assert f"{path}: {name!r} is no name of a run" in said
    assert (tmp_path / "deep" / "victim" / "file").exists() and path.exists()


def test_names_that_are_too_long_are_found_before_the_first_step(
    line: Line, tiny_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = tmp_path.joinpath(*["a" * 200] * 20)
    said = error_of(capsys, train.main, line(deep.parent / ("b" * (4060 - len(str(deep.parent)))), method="pt"))
    assert "cannot be written (File name too long)" in said
    path = jobs.toy_task(tmp_path, "a" * 235)
    chosen = jobs.settings(tiny_t5, [path], method="p", max_source_length=400)
    said = error_of(capsys, train.main, [*jobs.arguments(chosen, tmp_path / "run"), "--apart"])
    assert "is too long to be the name of a run" in said and not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    line: Line, tmp_path: Path, signals: Callable[[int, int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {"method": "spp", "steps": TOTAL, "checkpoint_every": 3}
    assert train.main(line(tmp_path / "whole", **flags)) == 0
    signals(signal.SIGTERM, 7)
    out = tmp_path / "cut"
    assert train.main(line(out, **flags)) == 143
    before, latest = sorted((out / "checkpoints").iterdir())
    content = bytearray(latest.read_bytes())
    content[-5] ^= 16
    latest.write_bytes(content)
    capsys.readouterr()
    assert train.main([f"--resume={out}"]) == 0
    said = capsys.readouterr()
    assert f"note: {latest}: a damaged checkpoint: its content is not what was written" in said.err
    assert f"going on from {before.name}, the one before it" in said.err and "2 of them left" in said.out
    equal(out, tmp_path / "whole")


def test_a_job_that_died_before_it_had_begun(line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / ".config.json.0a1b2c3d").write_text('{"format": 1,')
    said = error_of(capsys, train.main, [f"--resume={out}"])
    assert f"a job ended here before it had begun: give its flags again, with --out {out}" in said
    assert train.main(line(out, method="pt", steps=1)) == 0
    assert not (out / ".config.json.0a1b2c3d").exists()


def test_a_folder_at_work_is_left_alone(line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert train.main(line(out, method="pt", steps=1)) == 0
    with claimed(out):
        for argv in ([f"--resume={out}"], line(out, method="pt,spp", steps=1)):
            assert f"process {os.getpid()} on " in error_of(capsys, train.main, argv)


def test_prompts_that_are_gone_are_missed(line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert train.main(line(out, method="mst", steps=1)) == 0
    before = jobs.prompts(out)["mst-n1-k4-s0"]
    shutil.rmtree(out / "prompts" / "mst-n1-k4-s0")
    said = error_of(capsys, train.main, [f"--resume={out}"])
    assert "prompts/mst-n1-k4-s0/manifest.json: not there, though its run has ended" in said
    shutil.rmtree(out / "checkpoints")
    assert train.main([f"--resume={out}"]) == 0
    assert all(torch.equal(t, before[name]) for name, t in jobs.prompts(out)["mst-n1-k4-s0"].items())


def test_results_of_another_job_are_refused(line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rate in (("one", "0.1"), ("two", "0.2")):
        assert train.main(line(tmp_path / name, method="pt", steps=1, lr_private=rate)) == 0
    shutil.copy(tmp_path / "one" / "results.json", tmp_path / "two" / "results.json")
    said = error_of(capsys, evaluate.main, [str(tmp_path / "two")])
    assert "two/results.json: the results of another job" in said
    assert train.main([f"--resume={tmp_path / 'two'}"]) == 0
    assert evaluate.main([str(tmp_path / "two")]) == 0
    path = tmp_path / "two" / "results.json"  # as an earlier version wrote it
    path.write_text(json.dumps({key: value for key, value in jobs.results(path.parent).items() if key != "job"}))
    assert evaluate.main([str(tmp_path / "two")]) == 0
