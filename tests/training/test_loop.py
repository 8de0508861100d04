"""The training loop: each run of a fleet is what it would be alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from compt_fast.config.presets import PRESETS
from compt_fast.models.batch import TargetPrompts, make_batch
from compt_fast.prompts.compose import compose
from compt_fast.prompts.parameters import PromptBank, rate_groups
from compt_fast.runs.job import Job
from compt_fast.tasks.sampling import EpochOrder
from compt_fast.training.plan import Run
from compt_fast.training.scoring import Scorer
from compt_fast.utils.errors import InputError
from tests.helpers import jobs


@pytest.fixture(scope="module")
def job(tiny_t5: Path, toys: list[Path]) -> Job:
    return jobs.opened(jobs.settings(tiny_t5, toys))


def plan(job: Job, tiny_t5: Path, toys: list[Path], **changes: Any) -> list[Run]:
    return jobs.planned(job.trunk, [path.stem for path in toys], jobs.settings(tiny_t5, toys, **changes))


def same(a: dict[str, Tensor], b: dict[str, Tensor], **tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **(tolerance or {"rtol": 0, "atol": 0}))


def alone(job: Job, run: Run) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and final target prompts of a run trained by a plain loop with torch's own AdamW."""
    config, rows = run.config, job.data.training(run.config)
    total = run.steps(len(rows))
    bank = PromptBank.create(run.shape, [config.seed], init_range=config.init_range, task=config.task)
    groups: list[dict[str, Any]] = [
        {"params": [p], "peak": config.rate(rate_groups(run.shape)[name])} for name, p in bank.params.items()
    ]
    optim = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    order = EpochOrder(len(rows), config.batch_size, config.seed)
    losses = []
    rise = math.ceil(config.warmup * total)
    for step in range(total):
        part = [rows[i] for i in order.batch(step)]
        batch = make_batch([r.input_ids for r in part], [r.label_ids for r in part], [r.task for r in part])
        targets = compose(bank.params, run.shape, training=True).targets
        assert targets is not None
        summed = job.trunk.row_losses(TargetPrompts.from_stacks([targets[0]]), batch).sum()
        loss = summed / sum(len(r.label_ids) for r in part)
        losses.append(loss.item())
        loss.backward()
        clip_grad_norm_(bank.params.values(), config.clip_norm)
        share = (step + 1) / rise if step < rise else (total - step) / (total - rise + 1)
        for group in optim.param_groups:
            group["lr"] = group["peak"] * share
        optim.step()
        optim.zero_grad()
    composed = compose(bank.params, run.shape).targets
    assert composed is not None
    return losses, {"targets": composed[0].detach()}


def three_runs(job: Job, tiny_t5: Path, toys: list[Path]) -> list[Run]:
    """Other methods, shots, rates, seeds, batch sizes and lengths."""
    first = plan(job, tiny_t5, toys, method="spp", shots=4, steps=6, lr_private=0.05, seeds=1)
    second = plan(job, tiny_t5, toys, method="scp", shots=6, steps=9, batch_size=5, clip_norm=0.1)
    third = plan(job, tiny_t5, toys, method="pt-joint", shots=8, steps=7, warmup=0.5, prompt_length=3)
    return first + second + third


def test_a_fleets_runs_are_what_a_plain_loop_makes_of_each(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    runs = three_runs(job, tiny_t5, toys)
    jobs.train(job, runs, tmp_path / "all")
    stored = jobs.prompts(tmp_path / "all")
    for run in runs:
        losses, prompts = alone(job, run)
        assert jobs.losses(tmp_path / "all", run.id) == pytest.approx(losses, rel=1e-4)
        targets = {"targets": stored[run.id]["targets"]}
        same(targets, prompts, rtol=1e-3, atol=1e-3)


def test_fleet_equals_solo(job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    runs = three_runs(job, tiny_t5, toys)
    jobs.train(job, runs, tmp_path / "all")
    together = jobs.prompts(tmp_path / "all")
    for run in runs:
        jobs.train(job, [run], tmp_path / run.id)
        own = jobs.losses(tmp_path / run.id, run.id)
        assert len(own) == run.steps(1)
        assert jobs.losses(tmp_path / "all", run.id) == own
        same(together[run.id], jobs.prompts(tmp_path / run.id)[run.id])


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "spp,slp", "router": "relaxed-bernoulli", "normalisation": "auto"},
        {"method": "spp,scp,pt-joint", "gates": "input"},
    ],
    ids=["relaxed-bernoulli", "input gates"],
)
def test_draws_and_gates_of_each_row_are_a_runs_own(
    changes: dict[str, str], job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    runs = plan(job, tiny_t5, toys, **changes, seeds="0,1")
    jobs.train(job, runs, tmp_path / "all")
    together = jobs.prompts(tmp_path / "all")
    for run in runs[1:4:2]:
        jobs.train(job, [run], tmp_path / run.id)
        same(together[run.id], jobs.prompts(tmp_path / run.id)[run.id])


def test_runs_that_wait_and_enter_later_train_the_same(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    runs = [
        run
        for method, steps in (("spp", 3), ("pt-joint", 5), ("spp", 4), ("mst", 2), ("spp", 6))
        for run in plan(job, tiny_t5, toys, method=method, steps=steps, seeds=steps)
    ]
    whole = jobs.train(job, runs, tmp_path / "all")
    queued = jobs.train(job, runs, tmp_path / "two", runs_at_once=2)
    assert whole.step == 6 and queued.step == 13  # steps 1-3, 1-5, 4-7, 6-7, 8-13
    widths = [record["run"] for record in jobs.metrics(tmp_path / "two")]
    assert widths[0:2] == [runs[0].id, runs[1].id] and widths[-1] == runs[4].id
    stored = jobs.prompts(tmp_path / "two")
    for run in runs:
        same(stored[run.id], jobs.prompts(tmp_path / "all")[run.id])
        one, other = (jobs.losses(tmp_path / name, run.id) for name in ("all", "two"))
        assert len(one) == run.config.steps and one == pytest.approx(other, rel=1e-4)
    assert [r.to_json()["id"] for r in queued.ended] == [run.id for run in runs]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_run_that_is_not_finite_is_stopped_and_the_others_go_on(
    value: float,
    job: Job,
    tiny_t5: Path,
    toys: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = plan(job, tiny_t5, toys, method="spp,pt-joint", seeds="0,1", steps=5)
    ill = runs[1].id
    jobs.train(job, runs, tmp_path / "well")
    jobs.train(job, [run for run in runs if run.id != ill], tmp_path / "without")
    jobs.poison(monkeypatch, ill, "source_tokens", value)
    trainer = jobs.train(job, runs, tmp_path / "ill")

    assert trainer.results[ill].status == "stopped"
    assert trainer.results[ill].reason == "loss not finite at step 1"
    assert [r.status for r in trainer.ended] == ["finished", "stopped", "finished", "finished"]
    entry = jobs.results(tmp_path / "ill")["runs"][1]
    assert (entry["status"], entry["tasks"], entry["average"]) == ("stopped", {}, None)
    (record,) = (r for r in jobs.metrics(tmp_path / "ill") if r["run"] == ill)
    assert record["loss"] is None and record["gradient_norm"] is None
    assert "stopped loss not finite" in (tmp_path / "ill" / "results.md").read_text()
    assert not (tmp_path / "ill" / "prompts" / ill).exists()

    stored, without = jobs.prompts(tmp_path / "ill"), jobs.prompts(tmp_path / "without")
    for run in runs:
        if run.id != ill:
            # In the step that the ill run is still part of, the others' numbers are untouched.
            first = jobs.losses(tmp_path / "ill", run.id)[:2]
            assert first[0] == jobs.losses(tmp_path / "well", run.id)[0]
            assert first[1] == pytest.approx(jobs.losses(tmp_path / "well", run.id)[1], rel=1e-6)
            same(stored[run.id], without[run.id])


def test_a_rate_that_explodes_stops_its_own_run_only(job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    runs = plan(job, tiny_t5, toys, method="pt-joint", lr_private="0.05,1e30", steps=4)
    trainer = jobs.train(job, runs, tmp_path / "run")
    assert [r.status for r in trainer.ended] == ["finished", "stopped"]
    assert "not finite at step" in trainer.ended[1].reason


def test_every_preset_trains(job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    runs = plan(job, tiny_t5, toys, method=",".join(PRESETS), steps=3, prompt_length=None)
    trainer = jobs.train(job, runs, tmp_path / "run", jobs.drawn)
    apart = [preset for preset in PRESETS.values() if preset.apart]
    assert [r.status for r in trainer.ended] == ["finished"] * (len(PRESETS) + (len(toys) - 1) * len(apart))
    for run in runs:
        losses = jobs.losses(tmp_path / "run", run.id)
        assert len(losses) == 3 and all(map(math.isfinite, losses))
        stored = jobs.prompts(tmp_path / "run")[run.id]
        tasks = 1 if run.config.task else 3
        if run.config.private:
            assert stored["privates"].shape[0] == tasks
        if run.shape.per_row:
            assert "targets" not in stored and stored["sources"].shape[0] == run.shape.sources
        else:
            assert stored["targets"].shape == (tasks, run.shape.target_length, 32)


def test_runs_that_start_from_stored_prompts_train_the_same_alone(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    runs = plan(job, tiny_t5, toys, method="pi,sil,sip,silp,slp", lr_source="0.05,0")
    jobs.train(job, runs, tmp_path / "all", jobs.drawn)
    together = jobs.prompts(tmp_path / "all")
    for run in runs:
        jobs.train(job, [run], tmp_path / run.id, jobs.drawn)
        same(together[run.id], jobs.prompts(tmp_path / run.id)[run.id])


def test_frozen_sources_keep_their_bits(job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    """Beside runs of the same cohort whose sources learn."""
    sip, learning = plan(job, tiny_t5, toys, method="sip,silp", steps=6)
    assert sip.shape == learning.shape
    jobs.train(job, [learning, sip], tmp_path / "run", jobs.drawn)
    stored, before = jobs.prompts(tmp_path / "run"), jobs.drawn(sip)["source_tokens"]
    assert torch.equal(stored[sip.id]["sources"], before)
    assert not torch.equal(stored[learning.id]["sources"], before)
    manifest = json.loads((tmp_path / "run" / "prompts" / sip.id / "manifest.json").read_text())
    assert manifest["source_tasks"] == manifest["tasks"] == ["toy_a", "toy_b", "toy_c"]


def test_a_run_that_needs_stored_prompts_is_not_trained_without(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="starts from stored prompts"):
        jobs.train(job, plan(job, tiny_t5, toys, method="pi"), tmp_path / "run")


def test_tasks_apart_are_what_each_task_alone_is(job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    whole = jobs.opened(jobs.settings(tiny_t5, toys, method="pt"))
    trainer = jobs.train(whole, whole.runs, tmp_path / "apart")
    names = ["toy_a", "toy_b", "toy_c"]
    assert [run.id for run in whole.runs] == [f"pt-k4-s0-{name}" for name in names]
    assert [list(result.tasks) for result in trainer.ended] == [[name] for name in names]
    single = jobs.opened(jobs.settings(tiny_t5, toys[1:2], method="pt"))
    jobs.train(single, single.runs, tmp_path / "single")
    (alone,) = jobs.prompts(tmp_path / "single").values()
    stored = jobs.prompts(tmp_path / "apart")
    same(stored["pt-k4-s0-toy_b"], alone)
    assert not torch.allclose(stored["pt-k4-s0-toy_a"]["targets"], alone["targets"], atol=0.3), "starts of their own"
    assert jobs.results(tmp_path / "apart")["runs"][1]["tasks"].keys() == {"toy_b"}


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": "mlp,linear,lstm,none", "encoder_sharing": "per-prompt,per-role,shared"},
        {"normalisation": "softmax,sparsemax,sigmoid,softmax-temperature", "sources": "1,4"},
        {"gates": "fixed,learned,learned-global,tied,input", "router": "direct,constant"},
        {"method": "pt-joint", "init": "vocab", "label_mode": "natural,synthetic,numeric"},
        {"method": "pt-joint", "sampling": "random", "shots": "4,full", "max_train": 12},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_every_setting_trains(
    changes: dict[str, str], job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    runs = plan(job, tiny_t5, toys, **({"steps": 2} | changes))
    trainer = jobs.train(job, runs, tmp_path / "run", runs_at_once=100)
    assert [r.status for r in trainer.ended] == ["finished"] * len(runs)


def test_training_lowers_the_loss(job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    runs = plan(job, tiny_t5, toys, method="spp,pt-joint,mst,slpn", steps=40, batch_size=12)
    jobs.train(job, runs, tmp_path / "run")
    for run in runs:
        losses = jobs.losses(tmp_path / "run", run.id)
        assert sum(losses[-5:]) / 5 < 0.9 * losses[0], run.id


def test_metrics_are_one_object_a_step_and_run(job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    runs = plan(job, tiny_t5, toys, method="spp,pt-joint", steps=4, warmup=0.5)
    jobs.train(job, runs, tmp_path / "run")
    records = jobs.metrics(tmp_path / "run")
    assert [(r["run"], r["step"]) for r in records] == [(run.id, step) for step in range(1, 5) for run in runs]
    for record in records:
        assert list(record) == [
            "run",
            "step",
            "loss",
            "gradient_norm",
            "learning_rate",
            "tokens_per_second",
        ]
        groups = ["source", "private", "source_encoder", "private_encoder", "router"]
        own = groups if record["run"] == runs[0].id else ["private", "private_encoder"]
        assert list(record["learning_rate"]) == own
        assert record["tokens_per_second"] > 0 and record["gradient_norm"] > 0
    rates = [r["learning_rate"]["private"] for r in records if r["run"] == runs[0].id]
    assert rates == pytest.approx([0.01, 0.02, 0.02 * 2 / 3, 0.02 / 3])


def test_the_best_prompts_on_the_development_sample_are_kept(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores of the development sample are made up: best after step 3 of 5."""
    (run,) = plan(job, tiny_t5, toys, steps=5)
    given = iter([1.0, 2.0, 9.0, 3.0, 9.0])
    seen: list[Tensor] = []
    score = Scorer.__call__

    def made_up(self: Scorer, wanted: Any, interrupts: Any) -> Any:
        for one in wanted:
            _, _, prompts, sets = one
            if [len(s.inputs) for s in sets] == [6, 6, 6]:
                yield from score(self, [one], interrupts)
                continue
            assert [len(s.inputs) for s in sets] == [4, 4, 4]
            seen.append(prompts.tensors["targets"])
            yield prompts, {"toy_a": {"primary": "accuracy", "scores": {"accuracy": next(given)}}}

    monkeypatch.setattr(Scorer, "__call__", made_up)
    jobs.train(job, [run], tmp_path / "run", select="best")
    assert len(seen) == 5
    assert torch.equal(jobs.prompts(tmp_path / "run")[run.id]["targets"], seen[2])
    (entry,) = jobs.results(tmp_path / "run")["runs"]
    assert entry["development"] == {"average": 9.0, "step": 3, "tasks": {"toy_a": {"accuracy": 9.0}}}


@pytest.mark.gpu
def test_a_gpu_trains_and_scores_as_the_cpu_does(tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    for device in ("cpu", "cuda"):
        job = jobs.opened(jobs.settings(tiny_t5, toys, device=device, dtype="fp32"))
        runs = [
            run
            for changes in (
                {"method": "spp,scp", "gates": "input,tied"},
                {"method": "spp", "router": "relaxed-bernoulli", "init": "vocab"},
                {"method": "pt-joint,mst,slpn", "encoder": "lstm"},
            )
            for run in plan(job, tiny_t5, toys, **changes)
        ]
        trainer = jobs.train(job, runs, tmp_path / device, select="best", runs_at_once=5)
        assert [r.status for r in trainer.ended] == ["finished"] * len(runs)
    for run in runs:
        here, there = (jobs.losses(tmp_path / device, run.id) for device in ("cpu", "cuda"))
        assert here == pytest.approx(there, rel=1e-2), run.id


def test_selection_needs_a_development_sample(job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    runs = plan(job, tiny_t5, toys, shots=48, sampling="random")  # of 60 rows a fifth is held out
    with pytest.raises(InputError, match="--select best needs training rows of toy_a beyond"):
        jobs.train(job, runs, tmp_path / "run", select="best")


def test_fewer_rows_than_shots(job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    runs = plan(job, tiny_t5, toys, shots=49)
    with pytest.raises(InputError, match="49 shots, but the training split has 48 rows"):
        jobs.train(job, runs, tmp_path / "run")
