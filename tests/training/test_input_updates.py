"""Methods that update the texts' embeddings, in a fleet: what they learn, and that others beside them stay the same."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from compt_fast import evaluate, load, predict, report, store, train
from compt_fast.analysis.runs import read_runs
from compt_fast.models.batch import TargetPrompts, make_batch
from compt_fast.prompts.artifact import load_prompts
from compt_fast.prompts.parameters import PromptBank, rate_groups
from compt_fast.prompts.tensors import sha256_of
from compt_fast.runs.job import Job
from compt_fast.tasks.sampling import EpochOrder
from compt_fast.training.graphs import eager
from compt_fast.training.plan import Run
from compt_fast.utils.errors import InputError
from tests.helpers import jobs

UPDATING = ("dept", "adept")
RATES = {"lr_private": "0.2", "lr_update": "0.05"}


@pytest.fixture(scope="module", params=["fast", "reference"])
def job(request: pytest.FixtureRequest, tiny_t5: Path, toys: list[Path]) -> Job:
    return jobs.opened(jobs.settings(tiny_t5, toys, engine=request.param))


def plan(job: Job, tiny_t5: Path, toys: list[Path], **changes: Any) -> list[Run]:
    length = {"update_length": 9} if "dept" in changes["method"].split(",") else {}
    chosen: dict[str, Any] = jobs.settings(tiny_t5, toys, **length | changes)
    return jobs.planned(job.trunk, [file.stem for file in toys], chosen | {"apart": False})


def updated(run: Run, params: dict[str, Tensor], texts: list[list[int]], tasks: list[int], table: Tensor) -> Tensor:
    """What the papers add to the embeddings of these texts, row by row."""
    found = []
    for ids, task in zip(texts, tasks, strict=True):
        if run.config.composition == "dept":
            product = params["update.a"][0, task] @ params["update.b"][0, task]
            beyond = product.new_zeros(max(0, len(ids) - len(product)), product.shape[1])
            found.append(torch.cat([product[: len(ids)], beyond]))
        else:
            w1, b1, w2, b2 = (params[f"update.{name}"][0, task] for name in ("w1", "b1", "w2", "b2"))
            found.append(torch.relu(table[torch.tensor(ids)] @ w1 + b1) @ w2 + b2)
    return torch.cat(found)


def alone(job: Job, run: Run) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and final parameters of a run trained by a plain loop with torch's own AdamW."""
    config, rows = run.config, job.data.training(run.config)
    total = run.steps(len(rows))
    params = PromptBank.create(run.shape, [config.seed], init_range=config.init_range).params
    groups = [{"params": [p], "peak": config.rate(rate_groups(run.shape)[name])} for name, p in params.items()]
    optim = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    order = EpochOrder(len(rows), config.batch_size, config.seed)
    losses = []
    for step in range(total):
        part = [rows[i] for i in order.batch(step)]
        texts, tasks = [r.input_ids for r in part], [r.task for r in part]
        batch = make_batch(texts, [r.label_ids for r in part], tasks)
        update = updated(run, params, texts, tasks, job.trunk.embedding)
        targets = TargetPrompts.from_stacks([params["private_tokens"][0]])
        loss = job.trunk.row_losses(targets, batch, update).sum() / sum(len(r.label_ids) for r in part)
        losses.append(loss.item())
        loss.backward()
        clip_grad_norm_(params.values(), config.clip_norm)
        rise = math.ceil(config.warmup * total)
        share = (step + 1) / rise if step < rise else (total - step) / (total - rise + 1)
        for group in optim.param_groups:
            group["lr"] = group["peak"] * share
        optim.step()
        optim.zero_grad()
    return losses, {name: p[0].detach() for name, p in params.items()}


def test_runs_beside_each_other_have_the_bits_that_each_has_alone(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    runs = plan(job, tiny_t5, toys, method="spp,dept,pt", seeds="0,1")
    runs += plan(job, tiny_t5, toys, method="scp", gates="input")
    jobs.train(job, runs, tmp_path / "all")
    together = jobs.prompts(tmp_path / "all")
    others = [run for run in runs if not run.shape.updates_inputs]
    for number, part in enumerate([others, *([run] for run in runs if run.shape.updates_inputs)]):
        jobs.train(job, part, tmp_path / f"{number}")
        for run, tensors in jobs.prompts(tmp_path / f"{number}").items():
            assert all(torch.equal(together[run][name], t) for name, t in tensors.items()), run
        for run in [each.id for each in part]:
            assert jobs.losses(tmp_path / "all", run) == jobs.losses(tmp_path / f"{number}", run)


def test_a_fleets_runs_are_what_a_plain_loop_makes_of_each(
    job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path
) -> None:
    runs = plan(job, tiny_t5, toys, method="dept,spp,adept", **RATES)
    jobs.train(job, runs, tmp_path / "all")
    stored = jobs.prompts(tmp_path / "all")
    for run in [run for run in runs if run.shape.updates_inputs]:
        losses, params = alone(job, run)
        assert jobs.losses(tmp_path / "all", run.id) == pytest.approx(losses, rel=1e-4)
        for name, wanted in params.items():
            found = stored[run.id]["targets" if name == "private_tokens" else f"param.{name}"]
            assert wanted.any()
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_a_rate_of_0_freezes_prompt_or_update(job: Job, tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    for frozen, wanted in (("lr_private", {"private_tokens"}), ("lr_update", {"update.a", "update.b"})):
        (run,) = plan(job, tiny_t5, toys, method="dept", **RATES | {frozen: "0"})
        jobs.train(job, [run], tmp_path / frozen)
        (stored,) = jobs.prompts(tmp_path / frozen).values()
        start = PromptBank.create(run.shape, [0]).params
        names = {"private_tokens": "targets", "update.a": "param.update.a", "update.b": "param.update.b"}
        assert {name for name, own in names.items() if torch.equal(stored[own], start[name][0])} == wanted


@pytest.mark.parametrize("name", UPDATING)
def test_no_graph_holds_them(name: str, job: Job, tiny_t5: Path, toys: list[Path]) -> None:
    (run,) = plan(job, tiny_t5, toys, method=name)
    assert eager(run.shape) == f"composition '{name}' is composed operator by operator"


@pytest.fixture(scope="module")
def trained(tiny_t5: Path, toys: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of both methods and one that updates nothing."""
    out = tmp_path_factory.mktemp("trained") / "run"
    chosen = jobs.settings(tiny_t5, toys, method="dept,adept,pt", steps=6, **RATES)
    assert train.main(jobs.arguments(chosen, out)) == 0
    return out


def test_what_was_stored_scores_as_after_training_and_in_the_other_engine_too(
    trained: Path, toys: list[Path], tmp_path: Path
) -> None:
    place = tmp_path / "rows.jsonl"
    assert evaluate.main([str(trained), f"--predictions={place}"]) == 0
    assert {"param.update.a", "param.update.b"} < jobs.prompts(trained)["dept-k4-s0-toy_a"].keys()
    records = [json.loads(line) for line in place.read_text().splitlines()]
    for engine in ("fast", "reference"):
        for method in ("dept-k4-s0", "adept-k4-s0", "pt-k4-s0"):
            own = [record for record in records if record["run"].startswith(method)]
            rows = [{"task": r["task"], "sentence": r["input"].split("sentence: ")[1]} for r in own]
            predictor = load(trained, run=method, task_files=toys, engine=engine)
            scores = [answer.scores for answer in predictor.predict(rows, scores=True)]
            likely = [max(own, key=own.__getitem__) for own in scores if own]
            assert likely == [r["prediction"] for r in own]


def test_rows_of_methods_with_and_without_an_update_stand_in_one_batch(trained: Path, toys: list[Path]) -> None:
    own = {"toy_a": "dept-k4-s0-toy_a", "toy_b": "pt-k4-s0-toy_b", "toy_c": "adept-k4-s0-toy_c"}
    places = {task: trained / "prompts" / run for task, run in own.items()}
    rows = [{"task": task, "sentence": text} for text in ("man sees dog", "red film", "city") for task in own]
    together = load(*places.values(), task_files=toys).predict(rows, scores=True)
    for task, place in places.items():
        alone = load(place, task_files=toys).predict([row for row in rows if row["task"] == task], scores=True)
        mine = [answer for answer in together if answer.task == task]
        assert [answer.text for answer in mine] == [answer.text for answer in alone]
        for one, other in zip(mine, alone, strict=True):
            assert one.scores == pytest.approx(other.scores, rel=1e-5)


def test_they_answer_and_are_reported(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"sentence": "man sees dog"}\n')
    path = trained / "prompts" / "dept-k4-s0-toy_a"
    capsys.readouterr()
    assert predict.main([f"--prompts={path}", f"--input={rows}", "--scores"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("bad", "good", None)
    assert report.main([str(trained), f"--out={tmp_path / 'report'}"]) == 0
    assert {entry.normaliser for entry in read_runs([trained]).entries} == {None}


def test_no_entry_of_a_store_holds_an_update(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = trained / "prompts" / "adept-k4-s0-toy_a"
    said = jobs.error_of(capsys, store.main, ["add", str(path), f"--store={tmp_path / 'store'}"])
    assert "adept adds to the embeddings of the text" in said


def test_prompts_without_their_update_are_refused(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dept"
    shutil.copytree(trained / "prompts" / "dept-k4-s0-toy_a", folder)
    tensors = load_file(folder / "prompts.safetensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    for change in (lambda t: t.pop("param.update.b"), lambda t: t.update({"param.update.b": torch.zeros(1, 2, 32)})):
        own = dict(tensors)
        change(own)
        save_file(own, folder / "prompts.safetensors")
        sizes = {"tensors": {name: list(t.shape) for name, t in own.items()}, "sha256": sha256_of(own)}
        (folder / "manifest.json").write_text(json.dumps(manifest | sizes))
        with pytest.raises(InputError, match="its shape does not go with its tensors \\(param.update.b\\)"):
            load_prompts(folder)
