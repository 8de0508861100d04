"""A run folder's job, loaded."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compt_fast import train
from compt_fast.evaluation.evaluator import predict, scored
from compt_fast.evaluation.passes import Asked
from compt_fast.prompts.artifact import load_prompts
from compt_fast.prompts.routing import Mask
from compt_fast.runs.loaded import LoadedJob, load_job, stored_runs
from compt_fast.tasks.examples import JobData
from compt_fast.tasks.loaders import load_scored
from compt_fast.utils.errors import InputError
from tests.helpers import jobs


@pytest.fixture(scope="module")
def folder(tiny_t5: Path, toys: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks apart, and a sweep that was extended, so that its first run has a short name."""
    out = tmp_path_factory.mktemp("loaded") / "run"
    for rates in ("0.05", "0.05,0.1"):
        chosen = jobs.settings(tiny_t5, toys[:2], method="pt-joint", lr_private=rates)
        assert train.main([*jobs.arguments(chosen, out), "--apart"]) == 0
    return out


def score(loaded: LoadedJob, name: str, mask: Mask | None = None) -> dict[str, Any]:
    ((asked, predicted),) = loaded.predict([(name, mask)])
    return scored(asked.sets, predicted, asked.mode)


def test_scores_of_runs_apart_and_of_a_sweep_that_grew(folder: Path) -> None:
    results = {run["id"]: run["tasks"] for run in jobs.results(folder)["runs"]}
    assert list(results) == [
        *(
            "pt-joint-k4-s0-toy_a",
            "pt-joint-k4-s0-toy_b",
            "pt-joint-k4-s0-lr-private0.1-toy_a",
            "pt-joint-k4-s0-lr-private0.1-toy_b",
        )
    ]
    loaded = load_job(folder, {})
    assert stored_runs(folder) == list(results)
    for name, tasks in results.items():
        assert score(loaded, name) == tasks and len(tasks) == 1
    assert score(loaded, "pt-joint-k4-s0-toy_a", Mask(())) == results["pt-joint-k4-s0-toy_a"]


def test_other_flags_and_names(folder: Path, tmp_path: Path) -> None:
    (entry,) = score(load_job(folder, {"eval_size": "3"}), "pt-joint-k4-s0-toy_b").values()
    assert entry["n"] == 3
    with pytest.raises(InputError, match="plans no such run"):
        score(load_job(folder, {}), "pt-joint-k4-s9-toy_b")
    with pytest.raises(InputError, match=r"unknown run 'pt-joint-k4-s0'\. Did you mean"):
        stored_runs(folder, ["pt-joint-k4-s0"])
    with pytest.raises(InputError, match="no run folder"):
        load_job(tmp_path, {})


@pytest.mark.parametrize("scoring", ["rank", "generate"])
def test_prompts_alone_answer_as_in_their_run_folder(scoring: str, folder: Path, tmp_path: Path) -> None:
    """Without the run folder and the task file: with the artifact, the trunk that it names, and rows."""
    name = "pt-joint-k4-s0-toy_b"
    whole = load_job(folder, {"scoring": scoring, "eval_size": "1000"})
    prompts, about = load_prompts(shutil.copytree(folder / "prompts" / name, tmp_path / "alone"))
    (task,) = (about.definitions[task] for task in about.tasks)
    (split,) = (data.evaluation for data in whole.job.data.tasks if data.task.name == task.name)
    columns = [*(column for column, _ in task.fields), task.label_column]
    lines = [json.dumps(dict(zip(columns, (*row.texts, row.label), strict=True))) for row in split]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    text, settings, trunk = about.text, whole.job.settings, whole.job.trunk
    assert text.prefix is not None and text.max_source_length is not None and text.label_mode is not None
    assert text.prompt_position == trunk.prompt_position
    settings = replace(settings, prefix=text.prefix, max_source_length=text.max_source_length)
    data = JobData(load_scored([task], tmp_path / "rows.jsonl"), settings, trunk.tokenizer)
    asked = Asked(trunk, prompts, data.evaluation(), text.label_mode)
    ((_, found),) = predict(data, [asked], scoring=scoring, batch_size=settings.eval_batch_size)
    ((_, wanted),) = whole.predict([(name, None)])
    assert found == wanted
