"""Other trunks than T5 through the commands: a fleet of two stages, report, predictions, exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import compt_fast
from compt_fast import export, predict, report, train
from compt_fast.exports import write_export
from compt_fast.prediction.predictor import Predictor
from compt_fast.prompts.store import PromptStore
from compt_fast.tasks.text import encode_label
from tests.helpers.exported import drawn, fresh
from tests.helpers.jobs import error_of, prompts, results
from tests.helpers.tiny_trunks import make_trunk

TASKS = ("mini_rte", "mini_sst2", "mini_cola")
TOKENIZERS = {"gpt2": "bytes", "bart": "mini"}
Said = pytest.CaptureFixture[str]


def line(trunk: Path, out: Path, **flags: object) -> list[str]:
    usual: dict[str, Any] = {"tasks": ",".join(TASKS), "shots": 2, "steps": 4, "batch_size": 4, "prompt_length": 3}
    usual |= {"eval_size": 4, "max_source_length": 128}
    chosen = usual | {"model": trunk, "out": out} | flags
    return [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items()]


@pytest.fixture(scope="module", params=sorted(TOKENIZERS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of two methods, of which one starts from prompts that are trained first."""
    folder = tmp_path_factory.mktemp(request.param)
    trunk = make_trunk(folder / "trunk", request.param, TOKENIZERS[request.param])
    assert train.main(line(trunk, folder / "run", method="spp,pi", encoder="none", source_steps=2)) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return compt_fast.load(run, run=spp_of(run))


def spp_of(run: Path) -> str:
    """The id of the run of spp."""
    return next(name for name in prompts(run) if name.startswith("spp"))


def test_runs_of_a_fleet_are_what_they_are_alone(run: Path, tmp_path: Path) -> None:
    assert [one["status"] for one in results(run)["runs"]] == ["finished"] * 4  # pi trains each task apart
    alone = line(run.parent / "trunk", tmp_path / "alone", method="spp", encoder="none")
    assert train.main(alone) == 0
    ((name, values),) = prompts(tmp_path / "alone").items()
    for part, tensor in prompts(run)[name].items():
        torch.testing.assert_close(tensor, values[part], rtol=1e-4, atol=1e-5)
    metrics = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    assert {row["run"] for row in metrics} == set(prompts(run))


def test_prompts_and_stores_know_their_trunk(run: Path, tmp_path: Path, capsys: Said) -> None:
    family = run.parent.name.rstrip("0123456789")
    family = "bart" if family.startswith("bart") else "gpt2"
    manifests = [json.loads(path.read_text()) for path in run.glob("prompts/*/manifest.json")]
    config = json.loads((run / "config.json").read_text())
    assert [one["trunk"]["family"] for one in manifests] == [family] * 4
    assert {one["trunk"]["sha256"] for one in manifests} == {config["trunk"]["sha256"]}
    stored = PromptStore(run / "store")
    entries = [stored.load(name) for name in stored.names()]
    assert len(entries) == 3 and {entry.trunk.family for entry in entries} == {family}
    other = make_trunk(tmp_path / "other", "opt" if family == "gpt2" else "umt5", "words")
    said = error_of(capsys, predict.main, [f"--prompts={run}", f"--run={spp_of(run)}", f"--model={other}", "--input=-"])
    assert "of the family" in said


def test_a_report(run: Path) -> None:
    assert report.main([str(run)]) == 0
    assert "mini_rte" in (run / "report" / "index.html").read_text()


def test_predictions(run: Path, predictor: Predictor, tmp_path: Path) -> None:
    rows = [row | {"task": task} for task, of in drawn(list(TASKS), 3).items() for row in of]
    for row in rows:
        row.pop("label", None)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [
        f"--prompts={run}",
        f"--run={spp_of(run)}",
        f"--input={tmp_path / 'rows.jsonl'}",
        "--scores",
        "--batch-size=4",
    ]
    assert predict.main([*flags, f"--output={tmp_path / 'out.jsonl'}"]) == 0
    written = [json.loads(row) for row in (tmp_path / "out.jsonl").read_text().splitlines()]
    ours = predictor.predict(rows, scores=True)
    assert [row["prediction"] if "prediction" in row else row["text"] for row in written] == [one.text for one in ours]
    for row, answer in zip(rows, ours, strict=True):
        assert answer.scores is not None and abs(sum(answer.scores.values()) - 1) < 1e-5
        assert predictor.predict(row).text == answer.text  # alone as in a batch of all tasks


def test_a_label_continues_the_text(predictor: Predictor) -> None:
    """A causal model's begins with a space, as every word within a text."""
    tokenizer = predictor.trunk.tokenizer
    label = tokenizer.decode(encode_label("positive", tokenizer), skip_special_tokens=True)
    assert label == (" positive" if predictor.trunk.continues else "positive")


def test_peft_answers_as_the_card_says(predictor: Predictor, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs the extra bench: pip install -e '.[bench]'")
    assert write_export(predictor, "peft", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    blocks = [part.partition("```")[0] for part in card.split("```python\n")[1:]]
    rows = {task: {column: f"{{{column}}}" for column, _ in of.fields} for task, of in predictor.tasks.items()}
    first, second, *_ = rows
    asked = [[first]] if predictor.trunk.continues else [[first], [first, second]]  # no adapter of all tasks
    assert (tmp_path / "out" / "all").exists() == (len(asked) == 2)
    ours = [str([predictor.predict(rows[task], task).text for task in tasks]) for tasks in asked]
    code = "\n".join([f"import os\nos.chdir({str(tmp_path / 'out')!r})", *blocks])
    found = [each for each in fresh(code).splitlines() if each.startswith("[")]
    assert [str([text.strip() for text in json.loads(each.replace("'", '"'))]) for each in found] == ours


@pytest.mark.parametrize("name", ["vocabulary", "torchscript"])
def test_exports_that_are_made_of_a_t5_are_refused(name: str, run: Path, tmp_path: Path, capsys: Said) -> None:
    said = error_of(
        capsys, export.main, [str(run), f"--run={spp_of(run)}", f"--format={name}", f"-o={tmp_path / 'out'}"]
    )
    assert f"--format {name} holds the weights of a T5" in said and "take --format peft" in said
    assert not (tmp_path / "out").exists()


def test_another_engine_and_foreign_code_are_refused(run: Path, tmp_path: Path, capsys: Said) -> None:
    trunk = run.parent / "trunk"
    said = error_of(capsys, train.main, line(trunk, tmp_path / "run", method="pt", engine="fast"))
    assert "is not supported; this engine runs a T5" in said and "--engine auto" in said
    said = error_of(capsys, train.main, line(trunk, tmp_path / "run", method="pt", prompt_length=500))
    assert "exceed the trunk's input of" in said
    config = trunk / "config.json"
    text = config.read_text()
    config.write_text(text.replace("{", '{"auto_map": {"AutoModel": "own.Model"},', 1))
    said = error_of(capsys, train.main, line(trunk, tmp_path / "run", method="pt"))
    config.write_text(text)
    assert "config.json: asks to run code of its own (auto_map)" in said
    assert not (tmp_path / "run").exists()
