"""The command `train`: whole jobs, interruptions, and everything a user can get wrong."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from compt_fast import train
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.training import checkpoint
from compt_fast.training.optimizer import FleetAdamW
from tests.helpers import jobs
from tests.helpers.hub_rows import make_rows, write_rows
from tests.helpers.jobs import Line, equal, error_of

# A whole job


def test_a_job_leaves_a_whole_run_folder(line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "[run]"  # brackets are no markup
    assert train.main(line(out, method="spp,pt-joint,mst", seeds="0,1")) == 0
    said = capsys.readouterr().out
    assert "6 runs (spp, pt-joint, mst), 6 side by side" in said and "2 tasks: toy_a, toy_b" in said
    assert "(accuracy)" in said and "±" in said and f"run folder: {out}" in said
    assert f"results in {out}/results.json" in said and "earlier" not in said
    ends = [line for line in said.splitlines() if " runs ended)" in line]
    assert len(ends) == 6 and ends[0].startswith("spp-n3-k4-s0: average ") and ends[-1].endswith("(6 of 6 runs ended)")
    assert {path.name for path in out.iterdir()} == {
        *("config.json", "results.json", "results.md", "metrics.jsonl"),
        *("prompts", "checkpoints"),
    }
    content = jobs.results(out)
    assert list(content) == ["format", "job", "environment", "wall_seconds", "runs"]
    for run in content["runs"]:
        keys = ["id", "method", "sources", "shots", "seed", "status", "tasks", "average"]
        assert list(run) == keys and run["status"] == "finished"
        assert list(run["tasks"]) == ["toy_a", "toy_b"]
        for entry in run["tasks"].values():
            assert list(entry) == ["primary", "scores", "n", "predictions"]
            assert sum(sum(c.values()) for c in entry["predictions"].values()) == entry["n"] == 6
        manifest = json.loads((out / "prompts" / run["id"] / "manifest.json").read_text())
        assert manifest["tasks"] == ["toy_a", "toy_b"] and manifest["name"] == run["id"]
        assert manifest["training"]["config"]["method"] == run["method"]
        assert len(manifest["trunk"]["sha256"]) == 64 and manifest["trunk"]["d_model"] == 32
    assert [run["id"] for run in content["runs"]] == [
        *("spp-n3-k4-s0", "spp-n3-k4-s1", "pt-joint-k4-s0", "pt-joint-k4-s1", "mst-n1-k4-s0", "mst-n1-k4-s1")
    ]
    assert "| spp-n3-k4 | 2 |" in (out / "results.md").read_text()
    assert len(jobs.metrics(out)) == 6 * 4


def test_a_job_in_a_thread(line: Line, tmp_path: Path) -> None:
    """Where no signal handler can be set."""
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(train.main(line(tmp_path / "run", method="pt", steps=1))))
    thread.start()
    thread.join()
    assert codes == [0]


def test_the_same_command_gives_the_same_bits(line: Line, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert train.main(line(tmp_path / name, method="spp,slp")) == 0
    equal(tmp_path / "one", tmp_path / "two")


def test_a_run_folders_config_repeats_the_job(line: Line, tmp_path: Path) -> None:
    assert train.main(line(tmp_path / "one", method="spp,pt-joint", lr_private="0.1")) == 0
    config = str(tmp_path / "one" / "config.json")
    assert train.main([f"--config={config}", f"--out={tmp_path / 'two'}"]) == 0
    equal(tmp_path / "one", tmp_path / "two")


def test_rows_without_a_text_are_left_out_and_the_plan_says_so(
    tiny_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = make_rows("qqp", 12, "train")
    rows[4]["question1"] = ""
    for split in ("train", "validation"):
        write_rows(tmp_path / "hub/nyu-mll/glue/qqp" / f"{split}.jsonl", rows)
    argv = [f"--model={tiny_t5}", "--tasks=qqp", "--method=pt", "--shots=full", f"--data-root={tmp_path / 'hub'}"]
    argv += ["--steps=1", "--prompt-length=2", f"--out={tmp_path / 'run'}"]
    assert train.main(argv) == 0
    said = capsys.readouterr().out
    for split in ("train", "validation"):
        assert f"1 of 12 rows, the first {tmp_path / 'hub/nyu-mll/glue/qqp' / split}.jsonl:5\n" in said
    (entry,) = jobs.results(tmp_path / "run")["runs"][0]["tasks"].values()
    assert entry["n"] == 11


def test_the_embedded_tasks_train(tiny_t5: Path, tmp_path: Path) -> None:
    argv = [f"--model={tiny_t5}", "--suite=mini", "--include=mini_paws", "--exclude=mini_mnli"]
    argv += ["--steps=1", "--eval-size=2", "--prompt-length=2", f"--out={tmp_path / 'run'}"]
    assert train.main(argv) == 0
    names = list(jobs.results(tmp_path / "run")["runs"][0]["tasks"])
    assert len(names) == 8 and "mini_paws" in names and "mini_mnli" not in names


def test_the_embedded_trunk_says_that_it_cannot_read_real_tasks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = make_rows("qqp", 12, "train")
    for split in ("train", "validation"):
        write_rows(tmp_path / "hub/nyu-mll/glue/qqp" / f"{split}.jsonl", rows)
    argv = ["--method=pt", "--shots=2", "--steps=1", "--eval-size=2", "--prompt-length=2"]
    real = ["--tasks=qqp", f"--data-root={tmp_path / 'hub'}"]
    assert train.main([*argv, *real, f"--out={tmp_path / 'real'}"]) == 0
    said = capsys.readouterr().out
    assert "note: the embedded trunk mini knows" in said and " those of qqp letter by letter" in said
    assert "--model t5-base" in said
    assert train.main([*argv, "--tasks=mini_rte", f"--out={tmp_path / 'own'}"]) == 0
    assert "note:" not in capsys.readouterr().out


def test_another_trunk_reads_what_it_likes(line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(line(tmp_path / "run", method="pt-joint", steps=1)) == 0
    assert "note:" not in capsys.readouterr().out


def test_files_in_a_folder(tiny_t5: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "rte").mkdir(parents=True)
    rows = [{"sentence1": "a dog", "sentence2": f"a cat {i}", "label": i % 2} for i in range(12)]
    for split in ("train", "validation"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "data" / "rte" / f"{split}.jsonl").write_text(text)
    argv = [f"--model={tiny_t5}", "--tasks=rte", f"--data={tmp_path / 'data'}", "--steps=2"]
    argv += ["--method=pt", "--shots=4", "--scoring=rank", f"--out={tmp_path / 'run'}"]
    assert train.main(argv) == 0
    assert jobs.results(tmp_path / "run")["runs"][0]["tasks"]["rte"]["n"] == 12


def test_a_stopped_run_makes_the_exit_code_1(line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(line(tmp_path / "run", method="pt-joint", lr_private="0.1,1e30")) == 1
    statuses = [run["status"] for run in jobs.results(tmp_path / "run")["runs"]]
    assert statuses == ["finished", "stopped"]
    assert "lr-private1e+30: stopped, " in capsys.readouterr().out


def test_a_changed_trunk_voids_the_results(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row_losses = PackedTrunk.row_losses

    def meddling(self: PackedTrunk, *rest: Any) -> Tensor:
        with torch.no_grad():
            self.weights.decoder[0].cross.kv[0, 0] += 1e-3
        return row_losses(self, *rest)

    monkeypatch.setattr(PackedTrunk, "row_losses", meddling)
    with pytest.raises(RuntimeError, match="a weight of the frozen trunk has changed"):
        train.main(line(tmp_path / "run"))


# What a user can get wrong


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "sppp"}, "unknown value of --method 'sppp'. Did you mean 'spp'?"),
        ({"shots": "49"}, "49 shots, but the training split has 48 rows"),
        ({"shots": "48"}, "class-balanced shots need 24 rows labelled"),
        ({"max_source_length": "4"}, "raise --max-source-length"),
        ({"prompt_length": "600"}, "lower --prompt-length or --max-source-length"),
        ({"suite": "glu"}, "unknown suite 'glu'. Did you mean 'glue'?"),
        ({"select": "best", "shots": "48", "sampling": "random"}, "--select best needs training"),
        ({"runs_at_once": "0"}, "--runs-at-once must be above 0"),
        ({"model": "/nowhere/t5"}, "/nowhere/t5"),
        ({"config": "/nowhere/a.toml"}, "a.toml: cannot be read"),
    ],
)
def test_wrong_input_is_found_before_anything_is_written(
    changes: dict[str, str],
    message: str,
    line: Line,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in error_of(capsys, train.main, line(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_exists(line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(line(tmp_path / "run")) == 0
    before = jobs.metrics(tmp_path / "run")
    said = error_of(capsys, train.main, line(tmp_path / "run", shots=6))
    assert "the job began with the run spp-n3-k4-s0" in said and "name another folder" in said
    assert train.main(line(tmp_path / "run")) == 0
    assert "1 run (spp): done, nothing is left to train\n" in capsys.readouterr().out
    assert jobs.metrics(tmp_path / "run") == before


def test_an_unwritable_folder_is_found_before_training(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    said = error_of(capsys, train.main, line(tmp_path / "file" / "run"))
    assert "cannot be written (Not a directory)" in said


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_full_disk_is_found_before_training(
    line: Line,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: Usage(100, 99, 1))
        said = error_of(capsys, train.main, line(tmp_path / "run"))
        assert "MiB and the disk has 0" in said
    assert train.main(line(tmp_path / "run")) == 0, "the same folder can be tried again"


@pytest.mark.parametrize(
    "error",
    [
        # safetensors has an exception of its own, which is no OSError.
        SafetensorError("I/O error: No space left on device (os error 28)"),
        OSError(28, "No space left on device"),
    ],
)
def test_a_disk_that_fills_up_in_training(
    error: Exception,
    line: Line,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train.main(line(tmp_path / "whole", checkpoint_every=1)) == 0
    save = checkpoint.save_file

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        save(tensors, path, metadata=metadata)
        if "00000003" in path.name:
            path.write_bytes(path.read_bytes()[:100])
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        said = error_of(capsys, train.main, line(tmp_path / "run", checkpoint_every=1))
    assert "writing failed at step 3" in said and "No space left on device" in said
    assert train.main([f"--resume={tmp_path / 'run'}"]) == 0
    equal(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("method", ["row_losses", "label_scores"])
def test_out_of_memory_leaves_a_checkpoint_and_says_what_to_lower(
    method: str,
    error: BaseException,
    line: Line,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original, calls = getattr(PackedTrunk, method), [0]

    def failing(self: PackedTrunk, *rest: Any) -> Any:
        calls[0] += 1
        if calls[0] == (3 if method == "row_losses" else 1):
            raise error
        return original(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(PackedTrunk, method, failing)
        said = error_of(capsys, train.main, line(tmp_path / "run"))
    at = 2 if method == "row_losses" else 4
    assert f"out of memory at step {at}: begin again with a lower --runs-at-once" in said
    assert "--batch-size" in said and "--eval-batch-size" in said
    assert (tmp_path / "run" / "checkpoints" / f"step-{at:08d}.safetensors").is_file()
    assert train.main(line(tmp_path / "whole")) == 0
    assert train.main([f"--resume={tmp_path / 'run'}"]) == 0
    equal(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("every", [1, 100], ids=["a checkpoint before", "no checkpoint before"])
@pytest.mark.parametrize("method", ["step", "select", "extend"])
def test_out_of_memory_amid_a_change_saves_no_half_of_it(
    method: str,
    every: int,
    line: Line,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The optimizer's step, a run that leaves, a run that enters beside others: each changes parameters first."""
    changes = {"seeds": "0,1", "runs_at_once": 2, "checkpoint_every": every}
    if method == "extend":
        changes |= {"steps": "4,6", "runs_at_once": 3}
    original, calls = getattr(FleetAdamW, method), [0]

    def failing(self: FleetAdamW, *rest: Any, **named: Any) -> Any:
        calls[0] += 1
        result = original(self, *rest, **named)
        if method != "step" or calls[0] == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(FleetAdamW, method, failing)
        said = error_of(capsys, train.main, line(tmp_path / "run", **changes))
    at = {"step": 2, "select": 4, "extend": 4}[method]
    assert f"out of memory at step {at}:" in said and "the checkpoint before it, if any, is left" in said
    left = [path.name for path in (tmp_path / "run").glob("checkpoints/*.safetensors")]
    assert (f"step-{at:08d}.safetensors" in left) == (every == 1 and at > 0)
    assert bool(left) == (every == 1 and at > 0)
    assert train.main(line(tmp_path / "whole", **changes)) == 0
    assert train.main([f"--resume={tmp_path / 'run'}"]) == 0
    equal(tmp_path / "run", tmp_path / "whole")


def test_out_of_memory_before_the_first_step(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*rest: Any, **named: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PackedTrunk, "load", failing)
    said = error_of(capsys, train.main, line(tmp_path / "run"))
    assert "out of memory" in said and "a smaller --model" in said
    assert not (tmp_path / "run").exists()


def test_another_error_of_torch_is_no_lack_of_memory(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: PackedTrunk, *rest: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(PackedTrunk, "row_losses", failing)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train.main(line(tmp_path / "run"))
