"""The commands with methods of other papers: MPT and SMoP, side by side with ComPT's, on both engines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from compt_fast import check, evaluate, export, load, report, store, train
from compt_fast.prompts.store import PromptStore
from tests.helpers import jobs
from tests.helpers.jobs import Line, equal, error_of
from tests.test_train_stages import interrupt

METHODS = "spp,mpt,mpt-m,smop"
SHORT = {"method": METHODS, "source_steps": 2}
RUNS = [
    "spp-n3-k4-s0",
    *("mpt-n1-k4-s0-toy_a", "mpt-n1-k4-s0-toy_b", "mpt-m-n1-k4-s0"),
    *("smop-n4-k4-s0-toy_a", "smop-n4-k4-s0-toy_b"),
]
Said = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def fleet(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run folder of all of them."""
    out = tmp_path_factory.mktemp("fleet") / "run"
    assert train.main(line(out, **SHORT)) == 0
    yield out


def test_beside_others_they_train_as_alone_and_change_none(line: Line, fleet: Path, tmp_path: Path) -> None:
    together = jobs.prompts(fleet)
    assert list(together) == sorted(RUNS)
    for method in METHODS.split(","):
        steps = 2 if method.startswith("mpt") else None
        assert train.main(line(tmp_path / method, method=method, source_steps=steps)) == 0
        for run, tensors in jobs.prompts(tmp_path / method).items():
            assert jobs.losses(tmp_path / method, run) == jobs.losses(fleet, run)
            assert all(torch.equal(t, together[run][name]) for name, t in tensors.items()), run
    factors = together["mpt-m-n1-k4-s0"]
    assert {"param.factors.u", "param.factors.v", "sources", "targets"} <= factors.keys()
    assert not torch.equal(factors["param.factors.u"], torch.ones_like(factors["param.factors.u"]))


def test_both_engines_train_them_alike(line: Line, fleet: Path, tmp_path: Path) -> None:
    assert train.main(line(tmp_path / "reference", **SHORT, engine="reference")) == 0
    for run in RUNS:
        ours, theirs = (jobs.losses(folder, run) for folder in (fleet, tmp_path / "reference"))
        assert len(ours) == 4 and ours == pytest.approx(theirs, rel=1e-3), run


def test_they_go_on_with_the_same_bits(
    line: Line, fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, 6)
    assert train.main(line(tmp_path / "cut", **SHORT)) == 130
    assert train.main([f"--resume={tmp_path / 'cut'}"]) == 0
    equal(tmp_path / "cut", fleet)


def test_what_is_trained_is_scored_reported_and_answers(fleet: Path, tmp_path: Path, capsys: Said) -> None:
    kept = jobs.results(fleet)["runs"]
    for run in RUNS:
        asked = load(fleet, run=run)
        answers = asked.predict([{"task": next(iter(asked.tasks)), "sentence": "good dog"}])
        assert len(answers) == 1 and answers[0].task in asked.tasks
    assert evaluate.main([str(fleet), f"--out={tmp_path / 'scores.json'}"]) == 0
    again = {run["id"]: run["average"] for run in json.loads((tmp_path / "scores.json").read_text())["runs"]}
    assert again == {run["id"]: run["average"] for run in kept}
    assert report.main([str(fleet), f"--out={tmp_path / 'report'}"]) == 0
    mpt, smop = (str(fleet / "prompts" / run) for run in ("mpt-m-n1-k4-s0", "smop-n4-k4-s0-toy_a"))
    assert export.main([mpt, "--format=peft", f"--out={tmp_path / 'peft'}"]) == 0
    said = error_of(capsys, export.main, [smop, "--format=peft", f"--out={tmp_path / 'none'}"])
    assert "with router 'sparse' every row has a prompt of its own" in said


def test_a_shared_prompt_learns_from_teachers_which_are_trained_first(line: Line, tmp_path: Path, capsys: Said) -> None:
    """And the others of its fleet do not notice."""
    chosen = {"method": "spp,mpt-source", "source_steps": 2}
    assert train.main(line(tmp_path / "both", **chosen)) == 0
    assert PromptStore(tmp_path / "both" / "store").names() == ["toy_a-m2", "toy_b-m2"]
    assert train.main(line(tmp_path / "spp")) == 0
    together = jobs.prompts(tmp_path / "both")
    assert jobs.losses(tmp_path / "both", RUNS[0]) == jobs.losses(tmp_path / "spp", RUNS[0])
    assert all(torch.equal(t, together[RUNS[0]][name]) for name, t in jobs.prompts(tmp_path / "spp")[RUNS[0]].items())
    found = jobs.losses(tmp_path / "both", "mpt-source-n1-k4-s0")
    kept = tmp_path / "both" / "store"
    for changes in ({"engine": "reference"}, {"distil": 0}, {"distil_temperature": 4}):
        out = tmp_path / "-".join(map(str, changes))
        assert (
            train.main(line(out, method="mpt-source", **({} if "distil" in changes else {"store": kept}), **changes))
            == 0
        )
        (run,) = [run["id"] for run in jobs.results(out)["runs"]]
        other = jobs.losses(out, run)
        assert (found == pytest.approx(other, rel=1e-3)) == ("engine" in changes)
    assert json.loads((tmp_path / "both" / "config.json").read_text())["stored"].keys() == {"toy_a-m2", "toy_b-m2"}


def test_distillation_goes_on_with_the_same_bits(line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"method": "mpt-source", "source_steps": 2, "engine": "reference", "distil_hidden": 0.5}
    assert train.main(line(tmp_path / "whole", **chosen)) == 0
    interrupt(monkeypatch, 4)
    assert train.main(line(tmp_path / "cut", **chosen)) == 130
    assert train.main([f"--resume={tmp_path / 'cut'}"]) == 0
    equal(tmp_path / "cut", tmp_path / "whole")


def test_what_cannot_be_distilled_is_named(line: Line, tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "run"
    said = error_of(capsys, train.main, line(out, method="mpt-source", engine="fast", distil_hidden=1))
    assert "--distil-hidden: this engine compares no hidden states; take --engine reference" in said
    said = error_of(capsys, train.main, line(out, method="spp", distil_temperature=2))
    assert "--distil-temperature has no meaning without --distil" in said
    assert train.main(line(tmp_path / "five", method="pt-joint", prompt_length=5)) == 0
    kept = tmp_path / "store"
    assert store.main(["add", f"--store={kept}", str(tmp_path / "five" / "prompts" / "pt-joint-k4-s0")]) == 0
    said = error_of(capsys, train.main, line(out, method="spp", distil=1, store=kept))
    assert "toy_a-m5 has 5 tokens and 2 are needed: say --fit-length first" in said
    assert not out.exists()


def test_targets_start_from_what_source_tasks_share(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Teachers, shared prompt, targets: three stages of one command, which an interruption does not change."""
    chosen = {"method": "spp,mpt,mpt-m", "source_tasks": "toy_a,mini_qnli", "source_steps": 2, "lr_source": 0}
    assert train.main(line(tmp_path / "whole", **chosen | {"lr_private": 0})) == 0
    out = tmp_path / "whole"
    assert PromptStore(out / "store").names() == ["mini_qnli-m2", "toy_a-m2"]
    (source,) = jobs.prompts(out / "shared-m2").values()
    for run, tensors in jobs.prompts(out).items():
        if run.startswith("mpt"):
            assert torch.equal(tensors["sources"], source["sources"])
            for name in ("param.factors.u", "param.factors.v"):
                assert torch.equal(tensors[name], source[name].mean(0).expand_as(tensors[name]))
    config = json.loads((out / "config.json").read_text())
    assert config["stored"].keys() == {"shared-m2/mpt-source-n1-full-s0"}
    named = out / "shared-m2" / "prompts" / "mpt-source-n1-full-s0"
    assert train.main(line(tmp_path / "named", method="mpt-m", lr_source=0, lr_private=0, shared_from=named)) == 0
    (again,) = jobs.prompts(tmp_path / "named").values()
    assert torch.equal(again["targets"], jobs.prompts(out)["mpt-m-n1-k4-s0"]["targets"])
    for step in (1, 3, 5):  # two steps of teachers, two of what is shared, four of targets
        with monkeypatch.context() as patch:
            interrupt(patch, step)
            assert train.main(line(tmp_path / f"cut{step}", **chosen)) == 130
        assert train.main([f"--resume={tmp_path / f'cut{step}'}"]) == 0
        equal(tmp_path / f"cut{step}" / "shared-m2", out / "shared-m2")
    equal(tmp_path / "cut1", tmp_path / "cut5")


def test_shared_prompts_of_two_lengths_and_their_teachers(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    """Teachers of another length are fitted; both stages are told of; what is done needs no teachers any more."""
    assert train.main(line(tmp_path / "five", method="pt-joint", prompt_length=5, steps=1)) == 0
    kept, out = tmp_path / "store", tmp_path / "run"
    assert store.main(["add", f"--store={kept}", str(tmp_path / "five" / "prompts" / "pt-joint-k4-s0")]) == 0
    chosen = {"method": "mpt-m", "prompt_length": "2,3", "source_steps": 1, "steps": 2, "store": kept}
    assert "has 5 tokens and 2 are needed: say --fit-length" in error_of(capsys, train.main, line(out, **chosen))
    chosen["fit_length"] = "first"
    assert check.main(line(tmp_path / "none", **chosen)) in (0, 1)
    assert capsys.readouterr().out.count("Stage one, of a prompt that the source tasks share:") == 2
    interrupt(monkeypatch, 3)  # a step each of what is shared, then one of the targets
    assert train.main(line(out, **chosen)) == 130
    assert capsys.readouterr().out.count("Stage one trains a prompt that the source tasks share:") == 2
    shared = {f"shared-m{length}/mpt-source-n1-full-s0" for length in (2, 3)}
    assert json.loads((out / "config.json").read_text())["stored"].keys() == shared
    shutil.rmtree(kept)
    assert train.main([f"--resume={out}"]) == 0
    assert "Stage one" not in capsys.readouterr().out and not list(out.glob("sources-*"))
    manifests = [json.loads(path.read_text()) for path in out.glob("prompts/*/manifest.json")]
    assert [one["source_tasks"] for one in manifests] == [None, None], "one source, which is no task's"


def test_a_shared_prompt_that_does_not_fit_is_named(line: Line, fleet: Path, tmp_path: Path, capsys: Said) -> None:
    out, kept = tmp_path / "run", fleet / "prompts"
    for changes, message in (
        (
            {"shared_from": kept / RUNS[0]},
            "share none that is scaled for each task; --shared-from takes those of a run",
        ),
        ({"shared_from": kept / "none"}, "manifest.json: no such file"),
        ({"shared_from": kept / RUNS[3], "prompt_length": 3}, "2 tokens and 3 are needed: say --prompt-length 2"),
        ({"shared_from": kept / RUNS[3], "label_mode": "numeric"}, "it was trained on other texts"),
        ({"source_init": "stored"}, "--source-init of method 'mpt-m' is random or shared, not stored"),
        ({"method": "spp", "source_init": "shared"}, "--source-init of method 'spp' is random or stored, not shared"),
        ({"method": "spp", "shared_from": kept / RUNS[3]}, "starts from a shared prompt, as mpt and mpt-m do"),
    ):
        assert message in error_of(capsys, train.main, line(out, **{"method": "mpt-m"} | changes)), message
    assert not out.exists()
