"""The command `evaluate`: the same numbers from the stored prompts, or what is wrong with them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compt_fast import evaluate, train
from compt_fast.models.engines.fast import PackedTrunk
from tests.helpers import jobs
from tests.helpers.jobs import error_of
from tests.helpers.tiny_t5 import SIZES, make_t5


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("toys")
    return [jobs.toy_task(folder, "toy_a"), jobs.toy_task(folder, "toy_b", score=True)]


@pytest.fixture(scope="module")
def trained(tiny_t5: Path, toys: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder: with gates of every row, with a kept best, and a run that was stopped."""
    out = tmp_path_factory.mktemp("trained") / "run"
    chosen = jobs.settings(
        tiny_t5,
        toys,
        method="spp,pt-joint",
        gates="input",
        lr_private="0.05,1e30",
        select="best",
        eval_size=12,
    )
    assert train.main(jobs.arguments(chosen, out)) == 1
    return out


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


RUN = "spp-n3-k4-s0-lr-private0.05"
OTHER = "pt-joint-k4-s0-lr-private0.05"


def test_it_repeats_the_numbers(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "results.json").read_bytes()
    assert evaluate.main([str(trained)]) == 0
    said = capsys.readouterr().out
    assert "the same numbers as in results.json" in said and "toy_a" in said
    assert (trained / "results.json").read_bytes() == before


def test_it_repeats_them_as_a_process_of_its_own(trained: Path, tmp_path: Path) -> None:
    code = "import sys; from compt_fast.evaluate import main; sys.exit(main(sys.argv[1:]))"
    done = jobs.spawn(code, str(trained), f"--out={tmp_path / 'again.json'}")
    assert done.returncode == 0, done.stderr
    assert "the same numbers" in done.stdout
    again = json.loads((tmp_path / "again.json").read_text())
    finished = [run for run in jobs.results(trained)["runs"] if run["status"] == "finished"]
    for run in finished:
        assert run.pop("development")["step"] in (1, 2, 3, 4), "which is of the training alone"
    assert again["runs"] == finished and len(finished) == 2
    assert list(again) == ["format", "environment", "wall_seconds", "runs"]


def test_other_numbers_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = jobs.results(folder)
    run = next(run for run in content["runs"] if run["id"] == OTHER)
    run["tasks"]["toy_a"]["scores"]["accuracy"] += 0.5
    (folder / "results.json").write_text(json.dumps(content))
    assert evaluate.main([str(folder)]) == 1
    assert f"other numbers than in results.json: {OTHER}\n" in capsys.readouterr().out
    assert evaluate.main([str(folder), "--runs", RUN]) == 0


@pytest.mark.parametrize(
    "change",
    ["--scoring=generate", "--eval-size=5", "--eval-batch-size=3", "--dtype=bf16", "--device=cpu"],
)
def test_another_evaluation_of_the_same_prompts(
    change: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scores.json"
    assert evaluate.main([str(trained), change, f"--out={out}"]) == 0
    assert "same numbers" not in capsys.readouterr().out
    rows = [entry["n"] for run in json.loads(out.read_text())["runs"] for entry in run["tasks"].values()]
    assert rows == [5 if change == "--eval-size=5" else 12] * 4


def test_generation_and_ranking_differ_in_what_they_predict(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    assert evaluate.main([str(trained), "--scoring=generate", f"--out={out}"]) == 0
    generated = json.loads(out.read_text())["runs"]
    ranked = [run for run in jobs.results(trained)["runs"] if run["status"] == "finished"]

    def predicted(runs: list[dict[str, Any]]) -> set[str]:
        tables = [run["tasks"]["toy_a"]["predictions"] for run in runs]
        return {text for table in tables for counts in table.values() for text in counts}

    assert predicted(ranked) <= {"bad", "good"}
    assert predicted(generated) - {"bad", "good"}, "a trunk of random weights writes other words"


def test_runs_by_name(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "one.json"
    assert evaluate.main([str(trained), f"--runs={OTHER}", f"--out={out}"]) == 0
    assert [run["id"] for run in json.loads(out.read_text())["runs"]] == [OTHER]
    said = error_of(capsys, evaluate.main, [str(trained), "--runs=pt-k4-s0-lr-private0.5"])
    assert f"Did you mean '{OTHER}'?" in said


def test_masks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([str(folder), "--masks=each", f"--runs={RUN}", "--eval-batch-size=5"]) == 0
    said = capsys.readouterr().out
    assert "source-3" in said and f"scores of each task in {folder}/masked.json" in said
    content = json.loads((folder / "masked.json").read_text())
    (before,) = content["ways"]
    assert list(before["runs"]) == [RUN] and before["how"] == "before"
    masks = before["runs"][RUN]
    assert list(masks) == ["source-1", "source-2", "source-3", "sources", "private", "total"]
    (trained,) = (run for run in jobs.results(folder)["runs"] if run["id"] == RUN)
    assert masks["total"] == {"tasks": trained["tasks"], "average": trained["average"]}
    assert evaluate.main([str(folder), "--masks=subsets", f"--runs={OTHER}"]) == 0
    content = json.loads((folder / "masked.json").read_text())
    (before,) = content["ways"]
    assert list(before["runs"]) == [RUN, OTHER] and list(before["runs"][OTHER]) == ["total"]


def test_masks_after_normalisation_stand_apart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for how in ([], ["--mask-how=after"]):
        assert evaluate.main([str(folder), "--masks=each", f"--runs={RUN}", *how]) == 0
    assert "masked sources have weight 0 after the router normalised" in capsys.readouterr().out
    before, after = json.loads((folder / "masked.json").read_text())["ways"]
    assert (before["how"], after["how"]) == ("before", "after")
    assert before["runs"][RUN]["total"] == after["runs"][RUN]["total"]
    assert before["runs"][RUN]["source-1"] != after["runs"][RUN]["source-1"]
    said = error_of(capsys, evaluate.main, [str(folder), "--mask-how=after"])
    assert "say what too, by --masks each or subsets" in said


@pytest.mark.parametrize("flag", ["--eval-size=5", "--scoring=rank", "--dtype=bf16", "--out=x.json"])
def test_masks_score_as_the_training_did(flag: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = error_of(capsys, evaluate.main, [str(folder), "--masks=each", flag])
    assert f"leave out {flag.split('=')[0]}" in said and not (folder / "masked.json").exists()
    (folder / "masked.json").write_text("{")
    said = error_of(capsys, evaluate.main, [str(folder), "--masks=each", f"--runs={OTHER}"])
    assert "not well-formed json" in said


def test_leftovers_of_a_crash_are_no_runs(folder: Path) -> None:
    prompts = folder / "prompts"
    shutil.copytree(prompts / RUN, prompts / f".{RUN}.12345678")
    assert evaluate.main([str(folder)]) == 0


def truncate(folder: Path) -> None:
    path = folder / "prompts" / RUN / "prompts.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def edit(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edited(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edited


MANIFEST = f"prompts/{RUN}/manifest.json"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, "prompts.safetensors: cannot be read"),
        (lambda f: (f / "results.json").unlink(), "results.json: cannot be read (No such file"),
        (lambda f: (f / "config.json").unlink(), "no run folder (it has no config.json)"),
        (lambda f: shutil.rmtree(f / "prompts"), "no stored prompts yet"),
        (lambda f: (f / MANIFEST).write_text("{"), "manifest.json: not well-formed json"),
        (edit(MANIFEST, lambda m: m["shape"].update(tasks=5)), "tasks are 2, but its shape has 5"),
        (edit(MANIFEST, lambda m: m["trunk"].update(sha256="0" * 64)), "whose weights differ"),
        (edit(MANIFEST, lambda m: m["tasks"].reverse()), "prompts of the tasks toy_b, toy_a, but"),
        (
            edit("config.json", lambda c: c["flags"].update(seeds=[5])),
            "the config.json of the run folder plans no such run",
        ),
        (
            edit("config.json", lambda c: c["flags"].update(exclude=["toy_b"])),
            "results.json: the results of another job",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    spoil: Callable[[Path], None],
    message: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(folder)
    assert message in error_of(capsys, evaluate.main, [str(folder)])


@pytest.mark.parametrize(("size", "message"), [("tiny", "whose weights differ"), ("wide", "fit")])
def test_prompts_of_another_trunk(
    size: str,
    message: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(SIZES, "wide", (64, 8, 2, 32, 1, 1))
    other = make_t5(tmp_path / "other", size=size, seed=1)
    edit("config.json", lambda c: c["flags"].update(model=str(other)))(folder)
    said = error_of(capsys, evaluate.main, [str(folder)])
    assert message in said
    if size == "wide":
        assert "its d_model 32 does not fit trunk" in said and "of d_model 64" in said


def labelled(path: Path, rows: list[tuple[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"sentence": text, "label": label}) + "\n" for text, label in rows))
    return path


def test_other_rows_of_a_task_files_task(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are scored, all of them, and what was predicted for each can be had."""
    rows = [("man sees dog", 0), ("good book", 1), ("bad film", 0)] * 5
    labelled(tmp_path / "new/toy_a/test.jsonl", rows)
    out, table = tmp_path / "scores.json", tmp_path / "rows.csv"
    line = [str(trained), f"--data={tmp_path / 'new'}", f"--out={out}", f"--predictions={table}"]
    assert evaluate.main(line) == 0
    said = capsys.readouterr().out
    assert f"not scored, as {tmp_path / 'new'} has no folder of them: toy_b" in said and "same numbers" not in said
    runs = json.loads(out.read_text())["runs"]
    with table.open(newline="") as opened:
        records = list(csv.DictReader(opened))
    for run in runs:
        (entry,) = run["tasks"].values()
        own = [record for record in records if record["run"] == run["id"]]
        right = sum(record["gold"] == record["prediction"] for record in own)
        assert entry["n"] == len(own) == 15 and entry["scores"]["accuracy"] == pytest.approx(100 * right / 15)
        assert [(r["task"], r["row"], r["gold"]) for r in own[:2]] == [("toy_a", "1", "bad"), ("toy_a", "2", "good")]
        assert own[1]["input"] == "toy_a: sentence: good book"
        assert own[1]["where"] == f"{tmp_path / 'new/toy_a/test.jsonl'}:2"


def test_predictions_are_those_of_the_scores(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert evaluate.main([str(trained), f"--runs={RUN}", f"--predictions={path}"]) == 0
    records = [json.loads(line) for line in path.read_text().splitlines()]
    (run,) = (run for run in jobs.results(trained)["runs"] if run["id"] == RUN)
    for name, entry in run["tasks"].items():
        counts: dict[str, dict[str, int]] = {}
        for record in (record for record in records if record["task"] == name):
            of = counts.setdefault(record["gold"], {})
            of[record["prediction"]] = of.get(record["prediction"], 0) + 1
        assert counts == entry["predictions"]


def test_a_labelled_file_of_the_only_task(tiny_t5: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy = jobs.toy_task(tmp_path / "toys")
    out = tmp_path / "run"
    assert train.main(jobs.arguments(jobs.settings(tiny_t5, [toy], method="pt"), out)) == 0
    file, scores = labelled(tmp_path / "new.jsonl", [("a dog", 1), ("", 0), ("a cat", 1)]), tmp_path / "scores.json"
    line = [str(out), f"--data={file}", f"--out={scores}"]
    assert "new.jsonl:2: column 'sentence' is empty" in error_of(capsys, evaluate.main, line)
    assert evaluate.main([*line, "--skip-empty"]) == 0
    (run,) = json.loads(scores.read_text())["runs"]
    assert run["tasks"]["toy"]["n"] == 2
    assert evaluate.main([*line, "--skip-empty", "--eval-size=1"]) == 0
    assert json.loads(scores.read_text())["runs"][0]["tasks"]["toy"]["n"] == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--data=TMP"], "there is no folder of any of the tasks (toy_a, toy_b)"),
        (["--data-root=TMP"], "none of the tasks (toy_a, toy_b) is read there"),
        (["--predictions=TMP/a.txt"], "a.txt: a file of predictions ends in .jsonl or .csv"),
        (["--predictions=TMP/none/a.csv"], "a.csv: there is no folder"),
        (["--predictions=TMP/a.csv", "--masks=each"], "leave out --masks"),
        (["--data=TMP", "--masks=each"], "leave out --data"),
    ],
)
def test_rows_and_files_that_cannot_be(
    line: list[str], message: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(trained), *(flag.replace("TMP", str(tmp_path)) for flag in line)]
    assert message in error_of(capsys, evaluate.main, argv)
    assert not list(tmp_path.iterdir())


def test_a_runs_prompts_are_no_run_folder(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = error_of(capsys, evaluate.main, [str(trained / "prompts" / RUN)])
    assert f"name its run folder, {trained} --runs {RUN}" in said


def test_scores_that_cannot_be_written(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = error_of(capsys, evaluate.main, [str(trained), f"--out={tmp_path / 'none' / 'scores.json'}"])
    assert "scores.json: cannot be written (No such file or directory)" in said


def test_out_of_memory(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def failing(*rest: Any, **named: Any) -> Any:
        raise RuntimeError(message)

    monkeypatch.setattr(PackedTrunk, "label_scores", failing)
    message = "DefaultCPUAllocator: can't allocate memory: you tried"
    assert "lower --eval-batch-size" in error_of(capsys, evaluate.main, [str(trained)])
    message = "shapes do not match"
    with pytest.raises(RuntimeError, match="shapes do not match"):
        evaluate.main([str(trained)])


def test_wrong_flags(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = error_of(capsys, evaluate.main, [str(trained), "--scoring=rnak"])
    assert "unknown value of --scoring 'rnak'. Did you mean 'rank'?" in said
    assert "--eval-size must be above 0" in error_of(capsys, evaluate.main, [str(trained), "--eval-size=0"])
