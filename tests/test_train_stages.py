"""The command `train` in two stages, and sweeps that grow."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compt_fast import check, evaluate, store, train
from compt_fast.config.job import JobSettings, Sweep
from compt_fast.config.presets import PRESETS
from compt_fast.prompts.store import PromptStore, StoredPrompt
from compt_fast.training.loop import Trainer
from compt_fast.training.monitor import Monitor
from compt_fast.utils.errors import InputError
from tests.helpers import jobs
from tests.helpers.jobs import Line, equal, error_of

NINE = "p,pi,sl,slp,sln,slpn,sil,sip,silp"
Said = pytest.CaptureFixture[str]


def test_the_plan_says_whose_steps_are_whose(line: Line, tmp_path: Path, capsys: Said) -> None:
    chosen = {"method": "sip,spp", "steps": 2, "source_examples": 8, "batch_size": 4}
    note = "note: --steps is of stage two; stage one takes 30 steps a run, or those of --source-steps"
    assert check.main(line(tmp_path / "run", **chosen)) in (0, 1)
    assert capsys.readouterr().out.count(f"{note}\n") == 1
    for changes in ({"source_steps": 2}, {"steps": None}, {"method": "spp"}):
        assert check.main(line(tmp_path / "run", **chosen | changes)) in (0, 1)
        assert "note: --steps is" not in capsys.readouterr().out
    assert train.main(line(tmp_path / "run", **chosen)) == 0
    assert capsys.readouterr().out.count(f"{note}\nStage two:\n") == 1


def test_crosspts_nine_configurations_in_one_command(line: Line, tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "run"
    assert train.main(line(out, method=NINE, shots="2,4", seeds="0,1", source_steps=2, runs_at_once=7)) == 0
    said = capsys.readouterr().out
    assert f"Stage one trains source prompts that the store {out / 'store'} lacks:" in said and "Stage two:" in said
    assert "44 runs (p, pi, sl, slp, sln, slpn, sil, sip, silp), 7 side by side" in said, "p and pi a task each"
    runs = jobs.results(out)["runs"]
    assert len(runs) == 44 and {run["status"] for run in runs} == {"finished"}
    assert {run["id"] for run in runs} >= {"pi-k2-s0-toy_b", "sil-n2-k4-s1", "slpn-n2-k2-s0", "sl-n1-k2-s1"}

    kept = PromptStore(out / "store")
    assert kept.names() == ["toy_a-m2", "toy_b-m2"]
    stored = torch.stack([kept.load(name).values for name in kept.names()])
    entry = kept.load("toy_a-m2")
    (first,) = (run for run in jobs.results(out / "sources-m2")["runs"] if run["id"] == "p-full-s0-toy_a")
    assert entry.score == {"metric": "accuracy", "value": first["average"]}
    assert len(jobs.metrics(out / "sources-m2")) == 2 * 2
    trained = jobs.prompts(out / "sources-m2")
    assert torch.equal(trained["p-full-s0-toy_b"]["targets"][0], stored[1])

    prompts = jobs.prompts(out)
    for name, tensors in prompts.items():
        if name.startswith("sip"):
            assert torch.equal(tensors["sources"], stored), "frozen to the last bit"
        elif name.startswith("sil"):
            assert not torch.equal(tensors["sources"], stored)
    config = json.loads((out / "config.json").read_text())
    assert config["stored"] == {name: kept.load(name).sha256 for name in kept.names()}
    assert evaluate.main([str(out)]) == 0
    assert evaluate.main([str(out / "sources-m2")]) == 0


def test_every_preset_has_a_stage(line: Line, tmp_path: Path) -> None:
    assert train.main(line(tmp_path / "run", method=",".join(PRESETS), steps=1, source_steps=1)) == 0
    assert len(jobs.results(tmp_path / "run")["runs"]) == sum(2 if preset.apart else 1 for preset in PRESETS.values())


def test_the_store_is_filled_once_and_used_by_every_job(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    chosen = {"method": "sil,pi", "source_tasks": "toy_a,mini_qnli", "source_steps": 2, "store": tmp_path / "store"}
    assert train.main(line(tmp_path / "one", **chosen)) == 0
    assert PromptStore(tmp_path / "store").names() == ["mini_qnli-m2", "toy_a-m2", "toy_b-m2"]
    assert not (tmp_path / "one" / "store").exists()
    manifest = json.loads((tmp_path / "one" / "prompts" / "sil-n2-k4-s0" / "manifest.json").read_text())
    assert manifest["source_tasks"] == ["toy_a", "mini_qnli"] and manifest["tasks"] == ["toy_a", "toy_b"]
    capsys.readouterr()
    assert train.main(line(tmp_path / "two", **chosen)) == 0
    assert "Stage one" not in capsys.readouterr().out and not (tmp_path / "two" / "sources-m2").exists()
    equal(tmp_path / "one", tmp_path / "two")
    # One source task more: it alone is trained.
    assert train.main(line(tmp_path / "three", **chosen | {"source_tasks": "toy_a,mini_qnli,mini_rte"})) == 0
    assert [run["id"] for run in jobs.results(tmp_path / "three" / "sources-m2")["runs"]] == ["p-full-s0-mini_rte"]


def test_a_source_prompt_does_not_depend_on_its_company(line: Line, tmp_path: Path) -> None:
    chosen = {"method": "sil", "source_steps": 3}
    for name, tasks in (("both", "toy_a,toy_b"), ("one", "toy_b")):
        assert train.main(line(tmp_path / name, **chosen, source_tasks=tasks)) == 0
    both, one = (PromptStore(tmp_path / name / "store").load("toy_b-m2") for name in ("both", "one"))
    torch.testing.assert_close(both.values, one.values, rtol=1e-4, atol=1e-4)


def test_spot_and_lengths_in_one_sweep(line: Line, tmp_path: Path, capsys: Said) -> None:
    changes = {"method": "p", "private_init": "random,stored,spot", "prompt_length": "2,3", "source_steps": 2}
    assert train.main(line(tmp_path / "run", **changes)) == 0
    runs = jobs.results(tmp_path / "run")["runs"]
    starts = ("random", "stored", "spot")
    assert [run["id"] for run in runs][:6] == [
        f"p-k4-s0-prompt-length2-private-init{start}-{task}" for start in starts for task in ("toy_a", "toy_b")
    ]
    assert PromptStore(tmp_path / "run" / "store").names() == ["toy_a-m2", "toy_a-m3", "toy_b-m2", "toy_b-m3"]
    assert {path.name for path in (tmp_path / "run").glob("sources-*")} == {"sources-m2", "sources-m3"}
    assert train.main([f"--resume={tmp_path / 'run'}", "--prompt-length=2,3,4"]) == 0
    assert PromptStore(tmp_path / "run" / "store").names()[2::3] == ["toy_a-m4", "toy_b-m4"]
    assert len(jobs.results(tmp_path / "run")["runs"]) == 2 * 9


def test_a_prompt_of_another_length_asks_for_a_choice(line: Line, tmp_path: Path, capsys: Said) -> None:
    folder = tmp_path / "store"
    assert train.main(line(tmp_path / "one", method="pt-joint", prompt_length=5)) == 0
    assert store.main(["add", f"--store={folder}", str(tmp_path / "one" / "prompts" / "pt-joint-k4-s0")]) == 0
    argv = line(tmp_path / "two", method="pi", store=folder)
    said = error_of(capsys, train.main, argv)
    assert "toy_a-m5 has 5 tokens and 2 are needed: say --fit-length first, mean-pool, repeat or train" in said
    assert train.main([*argv, "--fit-length=first"]) == 0
    assert train.main([*line(tmp_path / "three", method="pi", store=folder, source_steps=1), "--fit-length=train"]) == 0
    assert PromptStore(folder).names() == ["toy_a-m2", "toy_a-m5", "toy_b-m2", "toy_b-m5"]


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """SIGINT after so many training steps, whatever is trained."""
    left, record = step, Monitor.step

    def counted(self: Monitor, *rest: Any, **named: Any) -> None:
        nonlocal left
        record(self, *rest, **named)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Monitor, "step", counted)


@pytest.mark.parametrize("step", [2, 6])
def test_an_interrupted_stage_goes_on_with_the_same_bits(
    step: int, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    """Stage one takes four steps and stage two four."""
    chosen = {"method": "silp,sl", "source_steps": 4}
    assert train.main(line(tmp_path / "whole", **chosen)) == 0
    interrupt(monkeypatch, step)
    out = tmp_path / "cut"
    assert train.main(line(out, **chosen)) == 130
    assert f"go on with: python -m compt_fast.train --resume {out}\n" in capsys.readouterr().err
    assert {run["status"] for run in jobs.results(out)["runs"]} == {"unfinished"}
    assert (out / "store").exists() == (step > 4)
    capsys.readouterr()
    assert train.main([f"--resume={out}"]) == 0
    assert not (out / "sources-m2-2").exists()
    which = "p" if step == 2 else "silp, sl"
    assert f"2 runs ({which}): 0 done, 2 left (2 begun), 2 side by side\n" in capsys.readouterr().out
    equal(out, tmp_path / "whole")
    equal(out / "sources-m2", tmp_path / "whole" / "sources-m2")


def test_a_stage_one_that_is_done_is_not_trained_again_where_the_store_lacks_a_part_of_it(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    chosen = {"method": "sil", "source_steps": 2}
    assert train.main(line(tmp_path / "whole", **chosen)) == 0
    out, keep = tmp_path / "cut", PromptStore.keep

    def once(self: PromptStore, prompt: StoredPrompt) -> None:
        if self.names():
            raise InputError("as if the process had died here")
        keep(self, prompt)

    with monkeypatch.context() as patch:
        patch.setattr(PromptStore, "keep", once)
        assert "had died here" in error_of(capsys, train.main, line(out, **chosen))
    assert PromptStore(out / "store").names() == ["toy_a-m2"]
    taken = count_steps(monkeypatch)
    assert train.main([f"--resume={out}"]) == 0
    assert set(taken) == {"sil-n2-k4-s0"} and not (out / "sources-m2-2").exists()
    equal(out, tmp_path / "whole")


# Sweeps that grow


def count_steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs that take a step, one entry a step."""
    taken: list[str] = []
    step = Trainer.train_step

    def counted(self: Trainer, *rest: Any) -> Any:
        records = step(self, *rest)
        taken.extend(record["run"] for record in records)
        return records

    monkeypatch.setattr(Trainer, "train_step", counted)
    return taken


@pytest.mark.parametrize("way", ["out", "resume"])
def test_what_is_finished_is_not_trained_again(
    way: str, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    out, wider = tmp_path / "run", {"seeds": "0,1", "lr_private": "0.02,0.05"}
    assert train.main(line(out, method="spp,sip", source_steps=2, seeds="0", lr_private="0.02")) == 0
    before, metrics = jobs.prompts(out), jobs.metrics(out)
    taken = count_steps(monkeypatch)
    if way == "out":
        assert train.main(line(out, method="spp,sip", source_steps=2, **wider)) == 0
    else:
        assert train.main([f"--resume={out}", *(f"--{k.replace('_', '-')}={v}" for k, v in wider.items())]) == 0
    assert "8 runs (spp, sip): 2 done, 6 left, 6 side by side\n" in capsys.readouterr().out
    new = [
        *("spp-n3-k4-s0-lr-private0.05", "spp-n3-k4-s1", "spp-n3-k4-s1-lr-private0.05"),
        *("sip-n2-k4-s0-lr-private0.05", "sip-n2-k4-s1", "sip-n2-k4-s1-lr-private0.05"),
    ]
    assert sorted(taken) == sorted(4 * new)
    results = jobs.results(out)["runs"]
    assert [run["id"] for run in results] == ["spp-n3-k4-s0", *new[:3], "sip-n2-k4-s0", *new[3:]]
    assert {run["status"] for run in results} == {"finished"}
    after = jobs.prompts(out)
    assert all(torch.equal(after[name][part], t) for name, of in before.items() for part, t in of.items())
    assert jobs.metrics(out)[: len(metrics)] == metrics
    assert "| spp-n3-k4 | 2 |" in (out / "results.md").read_text()
    assert evaluate.main([str(out)]) == 0
    # The same again takes no step.
    taken.clear()
    assert train.main([f"--resume={out}"]) == 0 and taken == []
    # The whole grid at once gives the same runs, up to the rounding of another company.
    assert train.main(line(tmp_path / "grid", method="spp,sip", source_steps=2, **wider)) == 0
    grid = jobs.prompts(tmp_path / "grid")["spp-n3-k4-s1-lr-private0.05"]
    for part, t in grid.items():
        torch.testing.assert_close(after["spp-n3-k4-s1-lr-private0.05"][part], t, rtol=1e-3, atol=1e-3)


def test_an_interrupted_job_can_grow(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, 6)  # of the second run its second step
        assert train.main(line(out, method="pt-joint,spp", runs_at_once=1)) == 130
    assert [run["status"] for run in jobs.results(out)["runs"]] == ["finished", "unfinished"]
    taken = count_steps(monkeypatch)
    assert train.main(line(out, method="mst,pt-joint,spp", runs_at_once=1)) == 0
    assert sorted(taken) == sorted(["spp-n3-k4-s0"] * 2 + ["mst-n1-k4-s0"] * 4)
    assert train.main(line(tmp_path / "whole", method="mst,pt-joint,spp", runs_at_once=1)) == 0
    mine, theirs = jobs.prompts(out), jobs.prompts(tmp_path / "whole")
    assert all(torch.equal(mine[name][part], t) for name, of in theirs.items() for part, t in of.items())


# What a user can get wrong


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source_tasks": "toy_a,mini_rt"}, "unknown task 'mini_rt'. Did you mean 'mini_rte'?"),
        ({"source_steps": 0}, "--source-steps must be above 0"),
        ({"source_examples": 0}, "--source-examples must be above 0"),
        ({"fit_length": "mean"}, "unknown value of --fit-length 'mean'. Did you mean 'mean-pool'?"),
        ({"private_init": "spott", "method": "pt-joint"}, "Did you mean 'spot'"),
        (
            {"private_init": "spot", "method": "pt-joint", "source_tasks": "toy_b"},
            "spot needs a source task beside toy_b",
        ),
        ({"lr_source": "0.1", "method": "sip"}, "--lr-source has no meaning"),
    ],
)
def test_wrong_input_is_found_before_anything_is_written(
    changes: dict[str, str], message: str, line: Line, tmp_path: Path, capsys: Said
) -> None:
    argv = line(tmp_path / "run", **({"method": "sil"} | changes))
    assert message in error_of(capsys, train.main, argv)
    assert not (tmp_path / "run").exists()


def test_a_damaged_store_is_found_before_anything_is_written(line: Line, tmp_path: Path, capsys: Said) -> None:
    folder = tmp_path / "store"
    chosen = {"method": "pi", "source_steps": 1, "steps": 1, "store": folder}
    assert train.main(line(tmp_path / "one", **chosen)) == 0
    path = folder / "toy_b-m2" / "prompt.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert "cannot be read" in error_of(capsys, train.main, line(tmp_path / "two", **chosen))
    path.write_bytes(content)
    manifest = folder / "toy_b-m2" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"tensors": {"prompt": [3, 32]}}))
    said = error_of(capsys, train.main, line(tmp_path / "two", **chosen))
    assert "holds {'prompt': [2, 32]}, but its manifest says {'prompt': [3, 32]}" in said
    assert not (tmp_path / "two").exists()


def test_stored_prompts_that_change_between_the_parts_of_a_job(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    out = tmp_path / "run"
    interrupt(monkeypatch, 3)
    assert train.main(line(out, method="pi", source_steps=2)) == 130
    kept = PromptStore(out / "store")
    entry = kept.load("toy_a-m2")
    entry.values[0, 0] += 1
    kept.add(entry, replace=True)
    said = error_of(capsys, train.main, [f"--resume={out}"])
    assert "the stored prompt toy_a-m2 has changed since the job began" in said


def test_a_source_prompt_that_cannot_be_trained(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    from compt_fast.runs import stage_one

    settings_of = stage_one.stage_one_settings

    def too_fast(*rest: Any) -> dict[Any, JobSettings]:
        jobs_of = settings_of(*rest)
        return {
            kind: replace(own, sweep=Sweep({**own.sweep.values, "lr_private": [1e30]})) for kind, own in jobs_of.items()
        }

    monkeypatch.setattr(stage_one, "stage_one_settings", too_fast)
    capsys.readouterr()
    assert train.main(line(tmp_path / "run", method="sil", source_steps=4)) == 2
    said = capsys.readouterr().err
    assert "the source prompt of p-full-s0-toy_a could not be trained" in said and "not finite" in said
