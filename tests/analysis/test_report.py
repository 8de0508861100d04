"""The command `report`: masked scores measured once, partial reports, wrong input."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from compt_fast import evaluate, report, store, train
from compt_fast.analysis import about_prompts
from compt_fast.prompts.artifact import TrunkId
from compt_fast.prompts.foreign import read_foreign
from compt_fast.prompts.store import PromptStore, StoredPrompt
from compt_fast.runs.masking import Way, read_masked, write_masked
from tests.helpers.foreign import t5_base_prompts
from tests.helpers.jobs import error_of, results
from tests.helpers.made_runs import made_run
from tests.helpers.shared import real

RUN = "spp-n2-k4-s0"


@pytest.fixture(scope="module")
def trained(line: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder trained over the tiny trunk: spp with two sources, and sl."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train.main(line(folder, method="spp,sl", sources="2", scoring="generate")) == 0
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_the_report_of_one_run_folder_goes_into_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main([str(folder), "--no-masking"]) == 0
    assert (folder / "report" / "index.html").is_file()
    for line in ([str(folder), str(folder)], [str(tmp_path)]):
        assert "say where the report goes, with -o DIR" in error_of(capsys, report.main, line)


def test_masked_scores_are_measured_once_and_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert report.main([str(folder), "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "index.html" in said and "missing:" not in said and "number of sources (--sources 1,2,3)" in said
    (masked,) = read_masked(folder).values()
    assert list(masked[RUN]) == ["source-1", "source-2", "sources", "private", "total"]
    recorded = {run["id"]: run["tasks"] for run in results(folder)["runs"]}
    assert {name: masks["total"]["tasks"] for name, masks in masked.items()} == recorded
    table = (out / f"masking-{_slug(RUN)}.csv").read_text().splitlines()
    assert table[0] == "task,S1,S2,all sources,private,total"
    shown = [float(row.split(",")[-1]) for row in table[1:]]
    accuracies = [task["scores"]["accuracy"] for task in recorded[RUN].values()]
    assert shown == [*accuracies, sum(accuracies) / len(accuracies)]

    def never(*rest: Any, **named: Any) -> Any:
        raise AssertionError("scored a second time")

    monkeypatch.setattr("compt_fast.runs.loaded.predict", never)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert report.main([str(folder), "-o", str(out)]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def _slug(run: str) -> str:
    return f"own-tasks-{run}"


def test_masked_scores_of_other_results_are_measured_again(folder: Path, tmp_path: Path) -> None:
    assert evaluate.main([str(folder), "--masks=each"]) == 0
    masked = read_masked(folder)[Way()]
    masked[RUN]["total"]["tasks"]["toy_a"]["n"] = 999
    write_masked(folder, Way(), masked)
    assert report.main([str(folder), "-o", str(tmp_path / "out")]) == 0
    assert read_masked(folder)[Way()][RUN]["total"]["tasks"]["toy_a"]["n"] == 6


def test_the_report_says_which_way_its_tables_are_masked(folder: Path, tmp_path: Path) -> None:
    for flags, says in (([], Way().says), (["--mask-how=after", "--mask-tokens=remove"], Way("after", "remove").says)):
        out = tmp_path / f"out-{len(flags)}"
        assert report.main([str(folder), "-o", str(out), f"--runs={RUN}", *flags]) == 0
        assert f"Scores with prompts switched off: {says}." in (out / "index.html").read_text()
        assert (
            "masked after normalisation, masked halves" in (out / f"masking-{_slug(RUN)}.md").read_text() or not flags
        )
    assert list(read_masked(folder)) == [Way(), Way("after", "remove")]


def test_without_the_trunk_the_rest_is_reported(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["flags"]["model"] = str(tmp_path / "gone")
    (folder / "config.json").write_text(json.dumps(config))
    assert report.main([str(folder), "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "missing: run: masked scores:" in said and "gone" in said
    text = (tmp_path / "out" / "index.html").read_text()
    assert "Router weights" in text and "<h2>Masking</h2>" not in text


def test_an_unfinished_job_is_reported_as_far_as_it_is(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "results.json"
    content = json.loads(path.read_text())
    content["runs"][1] |= {"status": "unfinished", "tasks": {}, "average": None}
    path.write_text(json.dumps(content))
    assert report.main([str(folder), "-o", str(tmp_path / "out"), "--no-masking"]) == 0
    assert "1 of 2 runs has not finished: sl-n2-k4-s0" in capsys.readouterr().out
    text = (tmp_path / "out" / "index.html").read_text()
    assert "1 of 2 runs has not finished" in text and "<h2>Results</h2>" in text
    path.unlink()
    assert report.main([str(folder), "-o", str(tmp_path / "none"), "--no-masking"]) == 0
    assert "of its 2 runs none has been scored" in (tmp_path / "none" / "index.html").read_text()


def test_only_the_named_runs_are_looked_into(tmp_path: Path) -> None:
    given = {"method": "spp,pt-joint", "sources": "1,2", "tasks": "mini_rte,mini_cola", "seeds": "0,1"}
    folder, _ = made_run(tmp_path / "run", **given)
    assert report.main([str(folder), "-o", str(tmp_path / "out"), "--runs=spp-n2-k16-s1"]) == 0
    drawn = sorted(path.stem for path in (tmp_path / "out").glob("router-*.svg"))
    assert drawn == ["router-mini-rte-mini-cola-spp-n2-k16-s1"]


def test_folders_and_stores_of_one_name_are_reported_side_by_side(tmp_path: Path) -> None:
    named = []
    for k, name in enumerate(("A/glue", "B/glue", "a_b", "a-b")):  # the last two are one file name
        named.append(made_run(tmp_path / name, masked=False, method="spp", tasks="mini_rte", seeds=str(k))[0])
    for name in ("A/store", "B/store"):
        made = PromptStore(tmp_path / name)
        for task in ("mini_rte", "mini_cola"):
            made.add(StoredPrompt(task, task, TrunkId("mini"), torch.randn(2, 8)))
        named += [made.folder, made.folder]  # and one of them twice
    out = tmp_path / "out"
    assert report.main([*map(str, named), "-o", str(out), "--no-masking"]) == 0
    tables = sorted(path.stem for path in out.glob("*.csv"))
    assert [t for t in tables if t.startswith("stored")] == ["stored-a-store-8", "stored-b-store-8"]
    results = [f"results-mini-rte-16-shots-{name}" for name in ("a-b", "a-b-2", "a-glue", "b-glue")]
    assert [t for t in tables if t.startswith("results")] == [*results, "results-mini-rte-16-shots-together"]
    text = (out / "index.html").read_text()
    assert "1 run in A/glue, 1 run in B/glue, 1 run in a_b and 1 run in a-b." in text
    assert "Prompt store: B/store." in text


def test_a_store_of_one_prompt_says_what_its_section_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = PromptStore(tmp_path / "store")
    made.add(StoredPrompt("a", "mini_rte", TrunkId("mini"), torch.randn(2, 8)))
    assert report.main([str(made.folder), "-o", str(tmp_path / "out")]) == 0
    assert "not in the report: stored prompts (two prompts of one width)\n" in capsys.readouterr().out


def test_stored_prompts_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, runs = made_run(tmp_path / "run", method="spp,sl", tasks="mini_rte,mini_cola")
    read: list[str] = []
    load = about_prompts.load_prompts
    monkeypatch.setattr(about_prompts, "load_prompts", lambda path: read.append(path.name) or load(path))
    assert report.main([str(folder), "-o", str(tmp_path / "out"), "--no-masking"]) == 0
    assert sorted(read) == sorted(run.id for run in runs)


def test_a_store_of_imported_prompts_is_drawn_by_their_likeness(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "prompts", tmp_path / "out"
    paths = t5_base_prompts(tmp_path)
    for task, path in paths.items():
        assert store.main(["add", str(path), f"--task={task}", "--model=t5-base", f"--store={folder}"]) == 0
    capsys.readouterr()
    assert report.main([str(folder), "-o", str(out)]) == 0
    assert "not in the report" not in capsys.readouterr().out, "nothing else could be there"
    assert "do not hold what" not in (out / "index.html").read_text()
    assert "<h2>Stored prompts</h2>" in (out / "index.html").read_text() and (out / "stored-prompts-768.png").exists()
    heads, *rows = csv.reader((out / "stored-prompts-768.csv").open(encoding="utf-8"))
    names = [f"{task}-m100" for task in paths]
    assert heads[1:] == names == [row[0] for row in rows]
    values = [read_foreign(path).values.double().mean(0) for path in paths.values()]
    expected = [[float(torch.cosine_similarity(a, b, dim=0)) for b in values] for a in values]
    assert [[float(cell) for cell in row[1:]] for row in rows] == [pytest.approx(row, abs=1e-5) for row in expected]
    if real("t5-base-prompts"):  # what README.md says of them
        found = {(rows[i][0], heads[j + 1]): round(float(rows[i][j + 1]), 2) for i in range(4) for j in range(i)}
        assert list(found.values()) == [0.89, 0.61, 0.65, 0.52, 0.55, 0.56]


def test_wrong_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["-o", str(tmp_path / "out")]
    assert "no such folder" in error_of(capsys, report.main, [str(tmp_path / "none"), *out])
    folder, _ = made_run(tmp_path / "run", method="pt-joint", tasks="mini_rte")
    assert "unknown run 'pt-joint-k8-s0'" in error_of(capsys, report.main, [str(folder), *out, "--runs=pt-joint-k8-s0"])
    weights = folder / "prompts" / "pt-joint-k16-s0" / "prompts.safetensors"
    weights.write_bytes(weights.read_bytes()[:40])
    assert "prompts.safetensors: cannot be read" in error_of(capsys, report.main, [str(folder), *out])


def test_missing_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("compt_fast.report.find_spec", lambda name: None)
    said = error_of(capsys, report.main, [str(tmp_path), "-o", str(tmp_path / "out")])
    assert said == "error: a report needs matplotlib and jinja2: pip install matplotlib jinja2\n"
