"""results.json and the table of methods and tasks."""

from __future__ import annotations

import io
import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from compt_fast.config.flags import read_flags
from compt_fast.evaluation.evaluator import average
from compt_fast.runs.results import read_results
from compt_fast.training.plan import Run, plan_runs
from compt_fast.training.results import RunResult, glue_score, markdown, print_scores, score_table, write_results
from compt_fast.utils.environment import environment
from compt_fast.utils.errors import InputError

COLA = {"accuracy": 60.0, "matthews": 20.0}
STSB = {"spearman": 50.0, "pearson": 70.0}


def shown_of(results: list[RunResult], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, markup=False)
    with console.capture() as capture:
        print_scores(console, results)
    return capture.get()


def plan(**given: str) -> list[Run]:
    return plan_runs(read_flags(given, None), tasks=["cola", "stsb"], d_model=8)


def finished(run: Run, cola: dict[str, float] = COLA, stsb: dict[str, float] = STSB) -> RunResult:
    tasks = {
        name: {"primary": primary, "scores": scores, "n": 3, "predictions": {"a": {"b": 3}}}
        for name, primary, scores in (("cola", "accuracy", cola), ("stsb", "spearman", stsb))
    }
    return RunResult.finished(run, tasks, average(tasks))


def test_the_file_has_the_documented_keys_and_no_other(tmp_path: Path) -> None:
    spp, full = plan(method="spp", shots="16,full")
    write_results(tmp_path, [finished(spp), RunResult.waiting(full)], 12.34)
    content = json.loads((tmp_path / "results.json").read_text())
    assert list(content) == ["format", "environment", "wall_seconds", "runs"]
    assert content["format"] == 1 and content["wall_seconds"] == 12.3
    assert content["environment"] == environment()
    first, second = content["runs"]
    assert first == {
        "id": "spp-n3-k16-s0",
        "method": "spp",
        "sources": 3,
        "shots": 16,
        "seed": 0,
        "status": "finished",
        "tasks": {
            "cola": {
                "primary": "accuracy",
                "scores": COLA,
                "n": 3,
                "predictions": {"a": {"b": 3}},
            },
            "stsb": {
                "primary": "spearman",
                "scores": STSB,
                "n": 3,
                "predictions": {"a": {"b": 3}},
            },
        },
        "average": 55.0,
    }
    assert (second["status"], second["shots"], second["average"]) == ("unfinished", None, None)
    assert read_results(tmp_path) == [finished(spp), RunResult.waiting(full)]


def test_a_stopped_run_says_why() -> None:
    (run,) = plan(method="pt-joint")
    entry = RunResult.stopped(run, "loss not finite at step 3").to_json()
    assert (entry["status"], entry["reason"]) == ("stopped", "loss not finite at step 3")
    assert entry["sources"] == 0


def test_the_table_has_mean_and_deviation_over_seeds_and_two_averages() -> None:
    a, b, c = plan(method="spp", seeds="0,1,2")
    (single,) = plan(method="pt-joint")
    scores = [(10.0, -20.0), (40.0, 0.0), (70.0, 50.0)]
    members = [
        finished(run, {"accuracy": acc, "matthews": mat}) for run, (acc, mat) in zip((a, b, c), scores, strict=True)
    ]
    table = score_table([members[0], finished(single), members[1], members[2]])
    assert table.heads() == [
        "run",
        "seeds",
        "cola (accuracy)",
        "cola (matthews)",
        "stsb (spearman)",
        "stsb (pearson)",
        "average (paper)",
        "average (GLUE)",
    ]
    assert table.rows[1] == ["pt-joint-k16", "1", "60.0", "20.0", "50.0", "70.0", "55.0", "40.0"]
    # GLUE: Matthews for cola, the mean of both correlations (60) for stsb.
    glue = [statistics.fmean((matthews, 60.0)) for _, matthews in scores]
    assert table.rows[0][:5] == ["spp-n3-k16", "3", "40.0 ± 30.0", "10.0 ± 36.1", "50.0 ± 0.0"]
    assert table.rows[0][6] == "45.0 ± 15.0"
    assert table.rows[0][7] == f"{statistics.fmean(glue):.1f} ± {statistics.stdev(glue):.1f}"


def own_task(run: Run, **tasks: dict[str, float]) -> RunResult:
    """A run's result on tasks of a user, with one or more metrics each."""
    entries = {
        name: {"primary": next(iter(scores)), "scores": scores, "n": 3, "predictions": {}}
        for name, scores in tasks.items()
    }
    return RunResult.finished(run, entries, average(entries))


def test_a_users_tasks_show_every_metric_and_no_papers_average() -> None:
    (run,) = plan(method="pt-joint")
    table = score_table([own_task(run, tickets={"accuracy": 61.0, "f1": 55.0})])
    assert table.heads() == ["run", "seeds", "tickets (accuracy)", "tickets (f1)"]
    assert table.rows == [["pt-joint-k16", "1", "61.0", "55.0"]]
    two = score_table([own_task(run, tickets={"accuracy": 61.0, "f1": 55.0}, mails={"f1": 31.0})])
    assert two.heads()[2:] == ["tickets (accuracy)", "tickets (f1)", "mails (f1)", "average"]
    assert two.rows[0][-1] == "46.0"


def test_development_scores_have_a_column_and_stand_in_the_file(tmp_path: Path) -> None:
    a, b = plan(method="spp", seeds="0,1")
    (other,) = plan(method="pt-joint")
    results = []
    for run, reached in ((a, 40.0), (b, 50.0)):
        result = finished(run)
        result.development = {"average": reached, "step": 7, "tasks": {"cola": COLA, "stsb": STSB}}
        results.append(result)
    results.append(finished(other))
    table = score_table(results)
    assert table.heads()[-1] == "development"
    assert [row[-1] for row in table.rows] == ["45.0 ± 7.1", "-"]
    write_results(tmp_path, results, 1.0)
    entries = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert entries[0]["development"]["step"] == 7 and "development" not in entries[2]
    assert read_results(tmp_path) == results


def test_other_settings_are_other_rows() -> None:
    runs = plan(method="spp", seeds="0,1", shots="8,16", lr_source="0.1,1e-05")
    rows = score_table([finished(run) for run in runs]).rows
    assert [row[:2] for row in rows] == [
        ["spp-n3-k8-lr-source0.1", "2"],
        ["spp-n3-k8-lr-source1e-05", "2"],
        ["spp-n3-k16-lr-source0.1", "2"],
        ["spp-n3-k16-lr-source1e-05", "2"],
    ]


def test_runs_apart_share_a_row() -> None:
    settings = replace(read_flags({"method": "p", "seeds": "0,1"}, None), apart=True)
    runs = plan_runs(settings, tasks=["cola", "stsb"], d_model=8)
    results = []
    for run, acc in zip(runs, (10.0, 20.0, 30.0, 40.0), strict=True):
        whole = finished(run, {"accuracy": acc, "matthews": acc}, {"spearman": acc, "pearson": acc})
        own = {name: task for name, task in whole.tasks.items() if name == run.config.task}
        results.append(RunResult.finished(run, own, average(own)))
    table = score_table(results)
    assert len(table.heads()) == 8
    twice = ["20.0 ± 14.1"] * 2 + ["30.0 ± 14.1"] * 2
    assert table.rows == [["p-k16", "2", *twice, "25.0 ± 14.1", "25.0 ± 14.1"]]
    # The second seed's stsb has not ended: its average is not known.
    rows = score_table([*results[:3], RunResult.waiting(runs[3])]).rows
    assert rows == [["p-k16", "2", *["20.0 ± 14.1"] * 2, "20.0", "20.0", "15.0", "15.0"]]
    rows = score_table([results[0], finished(plan(method="pt-joint")[0])]).rows
    assert rows[0] == ["p-k16", "1", "10.0", "10.0", "-", "-", "-", "-"]


def test_glue_score() -> None:
    assert glue_score(COLA) == 20.0
    assert glue_score(STSB) == 60.0
    assert glue_score({"accuracy": 61.5}) == 61.5


def test_markdown_and_terminal_name_the_runs_without_scores() -> None:
    spp, other = plan(method="spp", seeds="0,1")
    results = [finished(spp), RunResult.stopped(other, "loss not finite at step 3")]
    text = markdown(results)
    assert text.splitlines()[:3] == [
        "| run | seeds | cola (accuracy) | cola (matthews) | stsb (spearman) | stsb (pearson) | average (paper) | "
        "average (GLUE) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| spp-n3-k16 | 1 | 60.0 | 20.0 | 50.0 | 70.0 | 55.0 | 40.0 |",
    ]
    assert text.endswith("\n\n- spp-n3-k16-s1: stopped loss not finite at step 3\n")
    shown = shown_of(results)
    assert "spp-n3-k16-s1: stopped loss not finite" in shown and "(accuracy)" in shown
    assert markdown([RunResult.waiting(spp)]).endswith("- spp-n3-k16-s0: unfinished\n")


@pytest.mark.parametrize("width", [80, 120])
def test_embedded_tasks_stand_without_their_prefix_in_a_terminal(width: int) -> None:
    runs = plan(method="spp,pt-joint,mst", seeds="0,1")
    scores = {f"mini_{name}": {"accuracy": 50.0, "f1": 40.0} for name in ("cola", "mnli", "qnli", "qqp", "rte", "sst2")}
    shown = shown_of([own_task(run, **scores) for run in runs], width)
    assert "mini_" not in shown and "…" not in shown and max(map(len, shown.splitlines())) <= width
    assert shown.count("40.0 ± 0.0") == 3 * 6 and shown.count("50.0 ± 0.0") == 3 * 7
    mixed = shown_of([own_task(runs[0], mini_rte={"accuracy": 50.0}, rte={"accuracy": 50.0})])
    assert "mini_rte" in mixed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not well-formed json"),
        ("{}", "runs must be a list"),
        ("[]", "not the results of a run folder: a JSON list"),
        ('{"runs": [{"id": 3}]}', "run 1: id must be a text, not 3"),
    ],
)
def test_damaged_results_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match=rf"results\.json: {message}"):
        read_results(tmp_path)
