"""The command `train` with methods of other papers that start from stored prompts, or weigh them for each row."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import compt_fast
from compt_fast import evaluate, export, report, store, train
from compt_fast.prompts.store import PromptStore
from compt_fast.utils.errors import InputError
from tests.helpers import jobs
from tests.helpers.jobs import Line, error_of

Said = pytest.CaptureFixture[str]

# ATTEMPT


@pytest.fixture(scope="module")
def attempt(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of both forms, beside a method that composes no row by itself."""
    out = tmp_path_factory.mktemp("attempt") / "run"
    assert train.main(line(out, method="attempt,attempt-m,spp", source_steps=2)) == 0
    return out


def test_attempt_trains_private_prompts_and_attention_over_frozen_sources(attempt: Path) -> None:
    runs = jobs.results(attempt)["runs"]
    names = ["attempt-n2-k4-s0-toy_a", "attempt-n2-k4-s0-toy_b", "attempt-m-n2-k4-s0"]
    assert [run["id"] for run in runs][:3] == names and {run["status"] for run in runs} == {"finished"}
    kept = PromptStore(attempt / "store")
    stored = torch.stack([kept.load(name).values for name in kept.names()])
    found = jobs.prompts(attempt)
    for name, tasks in zip(names, (1, 1, 2), strict=True):
        own = found[name]
        assert torch.equal(own["sources"], stored), "frozen to the last bit"
        assert own["privates"].shape == (tasks, 2, 32) and "targets" not in own and "weights" not in own
        learned = {part: own[f"param.attention.{part}"] for part in ("down", "up", "scale", "shift")}
        assert learned["down"].shape == (100, 32) and learned["shift"].any() and (learned["scale"] != 1).any()
    manifest = json.loads((attempt / "prompts" / names[0] / "manifest.json").read_text())
    assert (manifest["tasks"], manifest["source_tasks"]) == (["toy_a"], ["toy_a", "toy_b"])


def test_the_engines_agree_and_company_changes_no_bit(attempt: Path, line: Line, tmp_path: Path) -> None:
    chosen = {"store": attempt / "store", "method": "attempt-m"}
    for name, more in (("alone", {"engine": "fast"}), ("reference", {"engine": "reference"})):
        assert train.main(line(tmp_path / name, **chosen, **more)) == 0
    among = jobs.prompts(attempt)["attempt-m-n2-k4-s0"]
    (alone,) = jobs.prompts(tmp_path / "alone").values()
    (reference,) = jobs.prompts(tmp_path / "reference").values()
    for part, t in among.items():
        assert torch.equal(alone[part], t), part
        torch.testing.assert_close(reference[part], t, rtol=1e-2, atol=1e-2)
    assert jobs.results(tmp_path / "alone")["runs"][0]["tasks"] == jobs.results(attempt)["runs"][2]["tasks"]


def test_attempt_is_masked_answers_and_is_reported(attempt: Path, tmp_path: Path, capsys: Said) -> None:
    assert evaluate.main([str(attempt), "--masks=each"]) == 0
    masks = json.loads((attempt / "masked.json").read_text())["ways"][0]["runs"]["attempt-m-n2-k4-s0"]
    assert masks.keys() == {"source-1", "source-2", "sources", "private", "total"}
    assert masks["total"]["tasks"] == jobs.results(attempt)["runs"][2]["tasks"]
    predictor = compt_fast.load(attempt, run="attempt-m-n2-k4-s0")
    rows = [{"task": "toy_a", "sentence": "man sees dog"}, {"task": "toy_b", "sentence": "bad"}]
    both, one = predictor.predict(rows), predictor.predict(rows[:1])
    assert both[0] == one[0] and len(both) == 2
    assert report.main([str(attempt), f"--out={tmp_path / 'report'}"]) == 0


@pytest.mark.parametrize("name", ["peft", "vocabulary", "torchscript"])
def test_what_each_row_composes_has_no_one_prompt(name: str, attempt: Path, tmp_path: Path, capsys: Said) -> None:
    run = str(attempt / "prompts" / "attempt-m-n2-k4-s0")
    said = error_of(capsys, export.main, [run, f"--format={name}", f"-o={tmp_path / 'out'}"])
    assert ("composed for each row" if name == "torchscript" else "with router 'attention' every row has") in said
    said = error_of(capsys, store.main, ["add", run, f"--store={tmp_path / 'store'}"])
    assert "with router 'attention' every row has a prompt of its own, and the task has none" in said


# SPoT


def test_spot_starts_from_one_prompt_of_all_source_tasks(line: Line, tmp_path: Path, capsys: Said) -> None:
    out, chosen = tmp_path / "run", {"method": "spot", "source_steps": 2, "source_tasks": "toy_b,mini_rte", "steps": 1}
    assert train.main(line(out, **chosen, lr_private="0")) == 0
    assert [run["id"] for run in jobs.results(out / "sources-joint-m2")["runs"]] == ["mst-n1-full-s0"]
    kept = PromptStore(out / "store")
    (name,) = kept.names()
    entry = kept.load(name)
    assert name.startswith("joint-") and name.endswith("-m2") and entry.tasks == ("toy_b", "mini_rte")
    assert entry.training["config"]["method"] == "mst" and entry.score is None
    for run in ("spot-k4-s0-toy_a", "spot-k4-s0-toy_b"):
        assert torch.equal(jobs.prompts(out)[run]["targets"][0], entry.values), "a rate of 0 leaves it where it began"
    capsys.readouterr()
    other = chosen | {"source_tasks": "mini_rte,toy_b", "store": kept.folder}
    assert train.main(line(tmp_path / "again", **other)) == 0
    assert "Stage one" not in capsys.readouterr().out and kept.names() == [name], "their order makes no other prompt"
    assert store.main(["list", f"--store={kept.folder}"]) == 0
    assert "toy_b, mini_rte" in capsys.readouterr().out


def test_what_tasks_share_answers_for_each_of_them(line: Line, tmp_path: Path, capsys: Said) -> None:
    out, kept = tmp_path / "run", PromptStore(tmp_path / "run" / "store")
    assert train.main(line(out, method="spot", source_steps=2)) == 0
    shared = compt_fast.load(kept.folder)
    trained = compt_fast.load(out / "sources-joint-m2")
    rows = [{"task": task, "sentence": "man sees dog"} for task in ("toy_a", "toy_b")]
    assert shared.tasks.keys() == {"toy_a", "toy_b"} and shared.predict(rows) == trained.predict(rows)
    assert export.main([str(kept.folder), "--format=peft", f"-o={tmp_path / 'peft'}"]) == 0
    again = PromptStore(tmp_path / "again")
    assert store.main(["add", str(tmp_path / "peft"), f"--store={again.folder}", "--task=toy_b", "--name=b"]) == 0
    assert again.load("b").tasks == ("toy_b",) and torch.equal(
        again.load("b").values, kept.load(kept.names()[0]).values
    )


def test_spot_goes_on_where_it_stopped_between_training_and_store(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    out = tmp_path / "run"

    def died(self: PromptStore, prompt: object) -> None:
        raise InputError("as if the process had died here")

    with monkeypatch.context() as patch:
        patch.setattr(PromptStore, "keep", died)
        assert "had died here" in error_of(capsys, train.main, line(out, method="spot", source_steps=2))
    assert train.main([f"--resume={out}"]) == 0
    assert len(jobs.metrics(out / "sources-joint-m2")) == 2, "stage one is not trained again"


def test_spot_nearest_starts_from_the_most_similar_sources_prompt(line: Line, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train.main(line(out, method="spot-nearest", source_steps=2, steps=1, lr_private="0")) == 0
    kept, found = PromptStore(out / "store"), jobs.prompts(out)
    for task, other in (("toy_a", "toy_b"), ("toy_b", "toy_a")):
        assert torch.equal(found[f"spot-nearest-k4-s0-{task}"]["targets"][0], kept.load(f"{other}-m2").values)


@pytest.mark.parametrize("method", ["spot", "attempt-m"])
def test_a_stored_prompt_of_another_length_is_named(method: str, line: Line, tmp_path: Path, capsys: Said) -> None:
    chosen = {"method": method, "source_steps": 1, "steps": 1, "store": tmp_path / "store"}
    assert train.main(line(tmp_path / "one", **chosen)) == 0
    for name in PromptStore(tmp_path / "store").names():  # as if another program had trained them
        entry = PromptStore(tmp_path / "store").load(name)
        PromptStore(tmp_path / "store").add(replace(entry, training={}), replace=True)
    said = error_of(capsys, train.main, line(tmp_path / "two", **chosen | {"prompt_length": 3}))
    assert "has 2 tokens and 3 are needed: say --fit-length first, mean-pool, repeat or train" in said
    assert not (tmp_path / "two").exists()
    longer = line(tmp_path / "three", **chosen | {"prompt_length": 3, "fit_length": "repeat"})
    assert train.main(longer) == 0


# Sums of stored prompts


def test_a_sum_of_stored_prompts_starts_runs_and_answers(line: Line, tmp_path: Path, capsys: Said) -> None:
    assert train.main(line(tmp_path / "one", method="pi", source_steps=2, steps=1)) == 0
    kept, other = PromptStore(tmp_path / "one" / "store"), PromptStore(tmp_path / "other")
    a, b = (kept.load(f"{task}-m2") for task in ("toy_a", "toy_b"))
    made = ["combine", "toy_a-m2 + 0.5*toy_b-m2", f"--store={kept.folder}", "--name=both"]
    assert store.main([*made, f"--into={other.folder}"]) == 0
    assert "added both: 2 tokens of width 32" in capsys.readouterr().out
    entry = other.load("both")
    torch.testing.assert_close(entry.values, a.values + 0.5 * b.values)
    assert entry.tasks == ("toy_a", "toy_b") and entry.training["combined"] == "toy_a-m2 + 0.5*toy_b-m2"
    assert "the store" in error_of(capsys, store.main, [*made, f"--into={other.folder}"])
    assert len(compt_fast.load(other.folder).predict([{"task": "toy_b", "sentence": "bad"}])) == 1
    chosen = {"method": "spot", "store": other.folder, "steps": 1, "lr_private": "0"}
    assert train.main(line(tmp_path / "two", **chosen)) == 0
    for found in jobs.prompts(tmp_path / "two").values():
        assert torch.equal(found["targets"][0], entry.values), "nothing was lacking"
    said = error_of(capsys, store.main, ["combine", "toy_a-m2 - toy_b-m3", f"--store={kept.folder}", "--name=x"])
    assert "'toy_b-m3'. Did you mean 'toy_b-m2'?" in said
    assert store.main(made) == 0
    beside = compt_fast.load(kept.folder).prompts
    for own in (a, b):
        assert torch.equal(beside[own.task].prompts.tensors["targets"][0], own.values), "before what it shares"
    assert store.main(["combine", "- toy_a-m2", f"--store={kept.folder}", "--name=away", "--task=toy_b"]) == 0


# Progressive Prompts


def test_tasks_come_one_after_another(line: Line, tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "run"
    sequence = {"source_tasks": "toy_b,mini_rte,toy_a", "tasks": "toy_a,mini_qnli", "source_steps": 2}
    assert train.main(line(out, method="progressive", **sequence)) == 0
    folders = {path.name: jobs.results(path)["runs"][0]["id"] for path in sorted(out.glob("sources-*"))}
    assert folders == {
        "sources-after1-m2": "progressive-full-s0-mini_rte",
        "sources-after2-m2": "progressive-full-s0-toy_a",
        "sources-m2": "p-full-s0-toy_b",
    }
    kept = PromptStore(out / "store")
    by_after = {entry.after: entry for entry in map(kept.load, kept.names())}
    b, rte, a = (by_after[after] for after in ((), ("toy_b",), ("toy_b", "mini_rte")))
    assert [entry.task for entry in (b, rte, a)] == ["toy_b", "mini_rte", "toy_a"]
    found = jobs.prompts(out)
    of_a, of_qnli = found["progressive-k4-s0-toy_a"], found["progressive-k4-s0-mini_qnli"]
    for own, behind in ((of_a, (rte, b)), (of_qnli, (a, rte, b))):
        assert torch.equal(own["targets"][0, 2:], torch.cat([entry.values for entry in behind])), "frozen, latest first"
        assert torch.equal(own["targets"][0, :2], own["privates"][0]) and "weights" not in own
    manifest = json.loads((out / "prompts" / "progressive-k4-s0-mini_qnli" / "manifest.json").read_text())
    assert manifest["source_tasks"] == ["toy_b", "mini_rte", "toy_a"]
    capsys.readouterr()
    assert train.main(line(tmp_path / "again", method="progressive", store=kept.folder, **sequence)) == 0
    assert "Stage one" not in capsys.readouterr().out
    assert store.main(["list", f"--store={kept.folder}"]) == 0 and "toy_a (before" in capsys.readouterr().out
    for place in (str(kept.folder), f"{kept.folder}@toy_b"):
        assert list(compt_fast.load(place).tasks) == ["toy_b"], "without what stands before others"
    chain = Path(shutil.copytree(kept.folder, tmp_path / "chain"))
    shutil.rmtree(chain / b.name)
    with pytest.raises(InputError, match="all of its prompts are parts, which stand before others"):
        compt_fast.load(chain)
    assert "and nothing alone: name the run" in error_of(
        capsys, export.main, [str(kept.folder / a.name), "--format=peft", f"-o={tmp_path / 'out'}"]
    )


def test_a_chain_of_its_own_tasks_in_both_engines_masked_and_at_work(line: Line, tmp_path: Path) -> None:
    out, chosen = tmp_path / "fast", {"method": "progressive,spp", "source_steps": 2}
    assert train.main(line(out, **chosen)) == 0
    other = {"engine": "reference", "store": out / "store"}
    assert train.main(line(tmp_path / "reference", **chosen | other)) == 0
    mine, theirs = jobs.prompts(out), jobs.prompts(tmp_path / "reference")
    first, second = "progressive-k4-s0-toy_a", "progressive-k4-s0-toy_b"
    assert mine[first]["targets"].shape == (1, 2, 32) and mine[second]["targets"].shape == (1, 4, 32)
    for name in (first, second):
        torch.testing.assert_close(mine[name]["targets"], theirs[name]["targets"], rtol=1e-2, atol=1e-2)
    assert evaluate.main([str(out), "--masks=each", "--mask-tokens=remove"]) == 0
    masks = json.loads((out / "masked.json").read_text())["ways"][0]["runs"]
    assert masks[second].keys() == {"source-1", "private", "total"} and masks[first].keys() == {"total"}
    predictor = compt_fast.load(out / "prompts" / second)
    assert len(predictor.predict([{"task": "toy_b", "sentence": "man sees dog"}])) == 1
    assert export.main([str(out / "prompts" / second), "--format=peft", f"-o={tmp_path / 'peft'}"]) == 0
    assert report.main([str(out), f"--out={tmp_path / 'report'}"]) == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"apart": False}, "method progressive trains one task after another: leave out --no-apart"),
        ({"sources": 2}, "--sources has no meaning for any of the methods trained (progressive)"),
        ({"router": "direct"}, "--router has no meaning"),
        ({"lr_source": 0.1}, "--lr-source has no meaning"),
    ],
)
def test_what_makes_no_chain_is_named(
    changes: dict[str, object], says: str, line: Line, tmp_path: Path, capsys: Said
) -> None:
    given = line(tmp_path / "run", method="progressive", **{k: v for k, v in changes.items() if k != "apart"})
    assert says in error_of(capsys, train.main, given + ["--no-apart"] * ("apart" in changes))
    assert not (tmp_path / "run").exists()
