"""The command `train` with methods of other papers that start from stored prompts, or weigh them for each row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import compt_fast
from compt_fast import evaluate, export, report, store, train
from compt_fast.prompts.store import PromptStore
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
