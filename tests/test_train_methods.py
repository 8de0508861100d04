"""The commands with methods of other papers: MPT and SMoP, side by side with ComPT's, on both engines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from compt_fast import evaluate, export, load, report, train
from tests.helpers import jobs
from tests.helpers.jobs import Line, equal, error_of
from tests.test_train_stages import interrupt

METHODS = "spp,mpt,mpt-m,smop"
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
    assert train.main(line(out, method=METHODS)) == 0
    yield out


def test_beside_others_they_train_as_alone_and_change_none(line: Line, fleet: Path, tmp_path: Path) -> None:
    together = jobs.prompts(fleet)
    assert list(together) == sorted(RUNS)
    for method in METHODS.split(","):
        assert train.main(line(tmp_path / method, method=method)) == 0
        for run, tensors in jobs.prompts(tmp_path / method).items():
            assert jobs.losses(tmp_path / method, run) == jobs.losses(fleet, run)
            assert all(torch.equal(t, together[run][name]) for name, t in tensors.items()), run
    factors = together["mpt-m-n1-k4-s0"]
    assert {"param.factors.u", "param.factors.v", "sources", "targets"} <= factors.keys()
    assert not torch.equal(factors["param.factors.u"], torch.ones_like(factors["param.factors.u"]))


def test_both_engines_train_them_alike(line: Line, fleet: Path, tmp_path: Path) -> None:
    assert train.main(line(tmp_path / "reference", method=METHODS, engine="reference")) == 0
    for run in RUNS:
        ours, theirs = (jobs.losses(folder, run) for folder in (fleet, tmp_path / "reference"))
        assert len(ours) == 4 and ours == pytest.approx(theirs, rel=1e-3), run


def test_they_go_on_with_the_same_bits(
    line: Line, fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, 2)
    assert train.main(line(tmp_path / "cut", method=METHODS)) == 130
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
