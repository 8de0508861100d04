"""Baselines in a job: beside prompts, one after another, stopped and resumed, and what a run folder keeps of them."""

from __future__ import annotations

import math
import os
import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import compt_fast
from compt_fast import check, evaluate, predict, report, train
from compt_fast.baselines import making
from compt_fast.models.engines.reference import ReferenceTrunk
from compt_fast.runs.alone import alone
from compt_fast.runs.job import Job
from compt_fast.runs.results import read_results
from compt_fast.tasks.sampling import EpochOrder
from compt_fast.training.cohort import Member
from compt_fast.training.interrupts import Interrupts
from compt_fast.training.monitor import Monitor
from compt_fast.training.plan import Run
from compt_fast.utils.errors import InputError
from tests.helpers import jobs
from tests.helpers.jobs import Line, equal, error_of

STEPS = 3
MIXED = {"method": "adapter-m,spp,finetune,pt-joint", "steps": STEPS, "runs_at_once": 3}


@pytest.fixture(scope="module")
def mixed(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two prompt methods, and of two baselines that stand before and between them."""
    out = tmp_path_factory.mktemp("mixed") / "run"
    assert train.main(line(out, **MIXED)) == 0
    return out


def test_prompts_train_together_and_then_the_others_in_turn(mixed: Path) -> None:
    names = [record["run"] for record in jobs.metrics(mixed)]
    prompts = ["spp-n3-k4-s0", "pt-joint-k4-s0"]
    apart = ["adapter-m-k4-s0", "finetune-k4-s0-toy_a", "finetune-k4-s0-toy_b"]
    assert sorted(names[: 2 * STEPS]) == sorted(prompts * STEPS)
    assert names[2 * STEPS :] == [name for name in apart for _ in range(STEPS)]
    results = {result.id: result for result in read_results(mixed)}
    assert set(results) == {*prompts, *apart}
    assert {result.status for result in results.values()} == {"finished"}
    assert results["finetune-k4-s0-toy_a"].tasks.keys() == {"toy_a"}
    assert "finetune" in (mixed / "results.md").read_text()


def test_baselines_beside_prompts_change_no_bit_of_them(mixed: Path, line: Line, tmp_path: Path) -> None:
    assert train.main(line(tmp_path / "run", **MIXED | {"method": "spp,pt-joint"})) == 0
    mine, theirs = jobs.prompts(mixed), jobs.prompts(tmp_path / "run")
    assert mine.keys() == theirs.keys()
    for run, tensors in theirs.items():
        assert all(torch.equal(mine[run][name], t) for name, t in tensors.items())


def test_a_baseline_is_the_same_alone(mixed: Path, line: Line, tmp_path: Path) -> None:
    assert train.main(line(tmp_path / "run", **MIXED | {"method": "finetune", "prompt_length": None})) == 0
    run = "finetune-k4-s0-toy_b"
    assert jobs.losses(tmp_path / "run", run) == jobs.losses(mixed, run)


def test_additions_are_kept_and_a_whole_trunk_is_not(mixed: Path, tiny_t5: Path) -> None:
    assert [path.name for path in (mixed / "weights").iterdir()] == ["adapter-m-k4-s0"]
    kept = load_file(mixed / "weights/adapter-m-k4-s0/weights.safetensors")
    norms = {name: t for name, t in load_file(tiny_t5 / "model.safetensors").items() if "layer_norm" in name}
    assert {f"model.{name}" for name in norms} | {n for n in kept if n.startswith("adapters.")} == set(kept)
    assert not any(torch.equal(kept[f"model.{name}"], t) for name, t in norms.items())


def test_prompts_are_scored_where_a_baseline_beside_them_cannot_be_made(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*made_of: object) -> None:
        raise InputError("lora, ia3, prefix and p-tuning are PEFT's, which is missing here")

    monkeypatch.setattr(making, "tuned", missing)
    assert evaluate.main([str(mixed), "--runs=spp-n3-k4-s0"]) == 0


def test_scores_are_those_of_the_weights_that_are_kept(mixed: Path, tiny_t5: Path, toys: list[Path]) -> None:
    kept = load_file(mixed / "weights/adapter-m-k4-s0/weights.safetensors")
    job, run = job_of(tiny_t5, toys[:2], method="adapter-m", steps=STEPS)
    cohort = alone(job, run)
    with torch.no_grad():
        for name, weight in cohort.weights.items():  # type: ignore[attr-defined]
            weight.copy_(kept[name])
    trainer = jobs.train(job, [], mixed.parent / "again")
    cohort.admit(Member(run, []))
    wanted = [(cohort, cohort.members[0], cohort.prompts(0), job.data.evaluation())]
    ((_, scored),) = trainer.score(wanted, Interrupts())
    (result,) = [r for r in read_results(mixed) if r.id == "adapter-m-k4-s0"]
    assert {name: task["scores"] for name, task in scored.items()} == {
        name: task["scores"] for name, task in result.tasks.items()
    }


def job_of(tiny_t5: Path, toys: list[Path], **changes: Any) -> tuple[Job, Run]:
    job = jobs.opened(jobs.settings(tiny_t5, toys, **{"prompt_length": None} | changes))
    return job, job.runs[0]


def test_fine_tuning_is_torchs_own(tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    """Losses and weights of a plain loop: transformers' T5, torch's AdamW and clipping."""
    job, run = job_of(tiny_t5, toys[:1], method="finetune", steps=4, lr=1e-3)
    config, rows = run.config, job.data.training(run.config)
    model = ReferenceTrunk.load(str(tiny_t5), dtype=torch.float32, device="cpu", prompt_position="prepend").model
    model.requires_grad_(True)
    optim = torch.optim.AdamW(model.parameters(), lr=config.lr_weights, weight_decay=config.weight_decay)
    order, losses = EpochOrder(len(rows), config.batch_size, config.seed), []
    rise = math.ceil(config.warmup * 4)
    for step in range(4):
        part = [rows[i] for i in order.batch(step)]
        each = [
            model(input_ids=torch.tensor([r.input_ids]), labels=torch.tensor([r.label_ids])).loss * len(r.label_ids)
            for r in part
        ]
        loss = torch.stack(each).sum() / sum(len(r.label_ids) for r in part)
        losses.append(loss.item())
        optim.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        share = (step + 1) / rise if step < rise else (4 - step) / (4 - rise + 1)
        optim.param_groups[0]["lr"] = config.lr_weights * share
        optim.step()
    trainer = jobs.train(job, [], tmp_path / "none")
    trainer.runs, trainer.rows, trainer.alone = [run], {run.id: rows}, lambda run: alone(job, run)
    trainer.refill()
    (cohort,) = trainer.cohorts
    with Monitor(tmp_path / "none", 4, Console(quiet=True)) as monitor:
        found = [trainer.train_step(monitor)[0]["loss"] for _ in range(4)]
    assert found == pytest.approx(losses, rel=1e-4)
    for name, p in model.named_parameters():
        torch.testing.assert_close(cohort.params[f"model.{name}"][0], p.detach(), rtol=1e-3, atol=2e-5, msg=name)


RESUMED = {
    "whole weights": (signal.SIGINT, {"method": "pt-joint,finetune-m", "select": "best"}),
    "additions": (signal.SIGTERM, {"method": "lora,p-tuning", "tasks": "toy_a"}),
    "made adapters": (signal.SIGINT, {"method": "hyperdecoder-m,hyperformer-m,bitfit", "prompt_length": None}),
}


@pytest.mark.parametrize("name", RESUMED)
def test_an_interrupted_job_goes_on_with_the_same_bits(
    name: str,
    line: Line,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    number, chosen = RESUMED[name]
    flags = {"steps": 4, "checkpoint_every": 2, **chosen}
    assert train.main(line(tmp_path / "whole", **flags)) == 0
    total = len(jobs.metrics(tmp_path / "whole"))
    at, step = random.randint(total // 3, total - 1), Monitor.step
    seen = 0

    def counted(self: Monitor, *rest: Any, **named: Any) -> None:
        nonlocal seen
        step(self, *rest, **named)
        seen += 1
        if seen == at:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as within:
        within.setattr(Monitor, "step", counted)
        assert train.main(line(tmp_path / "cut", **flags)) == 128 + number, f"interrupted at step {at}"
    assert train.main([f"--resume={tmp_path / 'cut'}"]) == 0
    assert jobs.results(tmp_path / "cut")["runs"] == jobs.results(tmp_path / "whole")["runs"], at
    timeless = [
        [record | {"tokens_per_second": 0} for record in jobs.metrics(tmp_path / folder)] for folder in ("cut", "whole")
    ]
    assert timeless[0] == timeless[1]
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole/weights").rglob("*.safetensors"))
    for file in files:
        mine, theirs = (load_file(tmp_path / folder / file) for folder in ("cut", "whole"))
        assert all(torch.equal(mine[key], t) for key, t in theirs.items()), file
    if jobs.prompts(tmp_path / "whole"):
        equal(tmp_path / "cut", tmp_path / "whole")


def test_a_sweep_grows_by_a_baseline(mixed: Path, line: Line, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train.main(line(out, method="pt-joint", steps=2)) == 0
    assert train.main([f"--resume={out}", "--method=pt-joint,ia3"]) == 0
    assert [r.method for r in read_results(out) if r.status == "finished"] == ["pt-joint", "ia3", "ia3"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"engine": "fast"}, "finetune trains weights in the trunk, and --engine fast has a frozen one: take --engine"),
        ({"gates": "input"}, "--gates has no meaning for any of the methods trained (finetune)"),
        ({"prompt_length": "3"}, "--prompt-length has no meaning"),
        ({"bottleneck": "3"}, "--bottleneck has no meaning"),
        ({"init": "vocab"}, "--init has no meaning"),
        ({"method": "spp", "lr": "0.1"}, "--lr has no meaning for any of the methods trained (spp)"),
        ({"method": "lora", "bottleneck": "0"}, "--bottleneck must be above 0, not 0"),
        ({"lr": "0"}, "--lr must be above 0, not 0.0"),
        ({"method": "finetun"}, "Did you mean 'finetune'?"),
    ],
)
def test_what_has_no_use_is_refused(
    flags: dict[str, str], said: str, line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {"method": "finetune", "prompt_length": None} | flags
    assert said in error_of(capsys, train.main, line(tmp_path / "run", **chosen))
    assert not (tmp_path / "run").exists()


def test_nothing_predicts_with_a_baseline(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run in ("finetune-k4-s0", "adapter-m-k4-s0"):
        said = error_of(capsys, evaluate.main, [str(mixed), f"--runs={run}"])
        assert "is a baseline, which trains weights and leaves no prompts" in said
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"sentence": "good film"}\n')
    line = [f"--prompts={mixed}", "--run=finetune-k4-s0", f"--input={rows}"]
    assert "is a baseline" in error_of(capsys, predict.main, line)


def test_prompts_beside_baselines_are_scored_again_and_all_are_reported(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for masks in ([], ["--masks=each"]):
        assert evaluate.main([str(mixed), *masks]) == 0
        (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not scored again: ")]
        assert "adapter-m-k4-s0" in said and "finetune-k4-s0-toy_a" in said and "spp" not in said
        assert "as no prompts come of training weights" in said and f"{mixed}/results.json" in said
    assert evaluate.main([str(mixed), "--runs=spp-n3-k4-s0"]) == 0
    assert "not scored again" not in capsys.readouterr().out, "which asks for prompts alone"
    assert report.main([str(mixed), "-o", str(tmp_path / "report"), "--no-masking"]) == 0
    table = next((tmp_path / "report").glob("results-*.md")).read_text()
    assert all(f"{name}-" in table for name in ("adapter-m", "finetune", "spp", "pt-joint"))


def test_a_job_in_bf16(line: Line, tmp_path: Path) -> None:
    """The copy of the trunk has the fingerprint of the job's, also where that is rounded."""
    assert train.main(line(tmp_path / "run", method="pt-joint,ia3,finetune", dtype="bf16", steps=2)) == 0
    assert {result.status for result in read_results(tmp_path / "run")} == {"finished"}


def test_a_program_sees_the_scores_of_baselines(tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    flags = {
        "method": "pt-joint,ia3",
        "shots": 2,
        "steps": 1,
        "eval_size": 4,
        "max_source_length": 32,
        "scoring": "rank",
    }
    fitted = compt_fast.fit(task_file=toys[0], model=tiny_t5, out=tmp_path / "run", progress=False, **flags)
    assert fitted.runs == ["pt-joint-k2-s0"]
    assert set(fitted.scores["method"]) == {"pt-joint", "ia3"}
    with pytest.raises(InputError, match="is a baseline"):
        fitted.predictor("ia3-k2-s0")


def test_weights_that_change_under_a_job_are_refused(tiny_t5: Path, toys: list[Path]) -> None:
    job, run = job_of(tiny_t5, toys[:1], method="finetune")
    with pytest.raises(InputError, match="have changed since the job was opened"):
        alone(replace(job, trunk_hash="0" * 64), run)


def test_a_check_counts_what_a_baseline_trains(line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check.main(line(tmp_path / "run", method="ia3,prefix", steps=2))
    said = capsys.readouterr().out
    assert "4 runs (ia3, prefix), 4 one after another" in said
    assert "288 to 624 trainable parameters a run" in said
