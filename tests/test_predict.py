"""The command `predict`: an answer a row, whatever interrupts it, or what is wrong with the line or the rows."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from compt_fast import load, predict, train
from compt_fast.prediction import answer_files, predictor
from compt_fast.prediction.answer_files import AnswerFile
from compt_fast.utils.locks import locked
from tests.helpers import jobs
from tests.helpers.jobs import error_of

RUN = "pt-joint-k4-s0"
ROWS = [
    {"id": f"r{n}", "task": f"toy_{'ab'[n % 3 % 2]}", "sentence": " ".join(itertools.islice(jobs.WORDS, n % 7 + 1))}
    for n in range(22)
]


@pytest.fixture(scope="module")
def runs(line: jobs.Line, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of two tasks."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert train.main(line(out, method="pt-joint,spp", lr_private=0.3)) == 0
    return out


@pytest.fixture(autouse=True)
def parts(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight rows at a time, and one trunk for all tests."""
    for module in (answer_files, predictor):
        monkeypatch.setattr(module, "AHEAD", 8)
    if "trunk" not in OPENED:
        OPENED["trunk"] = load(runs, run=RUN).trunk
    monkeypatch.setattr(predictor, "named_trunk", lambda settings, made_of: OPENED["trunk"])


OPENED: dict[str, Any] = {}


def rows_file(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    """A file of rows, of the format of its suffix."""
    frame = pd.DataFrame(rows)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="," if path.suffix == ".csv" else "\t")
    return path


@pytest.fixture
def ask(runs: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The line of `predict` for a file of rows, in a folder of its own."""
    rows = rows_file(tmp_path / "rows.jsonl")

    def line(*flags: str, output: str = "out.jsonl", **changes: Any) -> list[str]:
        given = {
            "prompts": runs,
            "run": RUN,
            "input": rows,
            "output": output if output == "-" else tmp_path / output,
        } | changes
        return [*(f"--{name}={value}" for name, value in given.items() if value is not None), *flags]

    return line


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if ".part" in path.name)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_an_answer_a_row(suffix: str, ask: Any, runs: Path, tmp_path: Path) -> None:
    rows = rows_file(tmp_path / f"rows{suffix}")
    assert predict.main(ask("--scores", "--copy=id", input=rows)) == 0
    expected = load(runs, run=RUN).predict(ROWS, scores=True)
    found = records(tmp_path / "out.jsonl")
    assert [list(record) for record in found] == [["id", "row", "task", "label", "text", "scores"]] * len(ROWS)
    for number, (record, row, answer) in enumerate(zip(found, ROWS, expected, strict=True), start=1):
        assert (record["id"], record["row"], record["task"]) == (row["id"], number, row["task"])
        assert (record["label"], record["text"]) == (answer.label, answer.text)
        assert record["scores"] == pytest.approx(answer.scores, abs=1e-6)
    assert leftovers(tmp_path) == []


def test_csv(ask: Any, tmp_path: Path) -> None:
    assert predict.main(ask("--scores", output="out.csv")) == 0
    assert predict.main(ask("--scores")) == 0
    with (tmp_path / "out.csv").open(newline="") as opened:
        table = list(csv.DictReader(opened))
    assert list(table[0]) == ["row", "task", "label", "text", "scores", "error"] and len(table) == len(ROWS)
    for row, record in zip(table, records(tmp_path / "out.jsonl"), strict=True):
        assert json.loads(row["scores"]) == record["scores"] and row["text"] == record["text"]
        assert (row["row"], row["label"], row["error"]) == (str(record["row"]), record["label"], "")


def test_standard_input_and_output(
    ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main(ask()) == 0
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "rows.jsonl").read_bytes())))
    assert predict.main(ask(input=None, output="-")) == 0
    said = capsys.readouterr()
    assert said.out == (tmp_path / "out.jsonl").read_text() and said.err == "rows answered: 22\n"


def test_one_task_of_all_rows(ask: Any, tmp_path: Path) -> None:
    rows = rows_file(tmp_path / "plain.csv", [{"sentence": "man"}, {"sentence": "dog"}])
    assert predict.main(ask("--task=toy_b", input=rows)) == 0
    assert [record["task"] for record in records(tmp_path / "out.jsonl")] == ["toy_b"] * 2


def test_bad_rows(ask: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Named by file and line; nothing of their part is written, and what was before goes on when they are mended."""
    rows = tmp_path / "rows.jsonl"
    lines = rows.read_text().splitlines(keepends=True)
    whole = lines[17]
    lines[17] = '{"task": "toy_a", "sentence": ""}\n'
    rows.write_text("".join(lines))
    assert predict.main(ask()) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("16 rows are answered; go on with: compt-fast predict ") and "--resume" in said[0]
    assert said[1] == f"error: {rows}:18: column 'sentence' is empty"
    assert not (tmp_path / "out.jsonl").exists() and len(records(tmp_path / "out.jsonl.part")) == 16
    assert "an interrupted prediction left it: go on with --resume, or remove it" in error_of(
        capsys, predict.main, ask()
    )
    lines[17] = whole
    rows.write_text("".join(lines))
    assert predict.main(ask("--resume")) == 0
    assert [record["row"] for record in records(tmp_path / "out.jsonl")] == list(range(1, 23))
    assert leftovers(tmp_path) == []


def test_nothing_is_left_of_what_failed_at_once(ask: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows_file(tmp_path / "rows.jsonl", [{"task": "toy_a"}])
    assert "rows.jsonl:1: no column 'sentence'" in error_of(capsys, predict.main, ask())
    assert leftovers(tmp_path) == [] and not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_keep_going(suffix: str, ask: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    lines = [b'{"task": "toy_a", "sentence": "man"}', b"{", b'{"task": "toy_x", "sentence": "\xe9"}', b'{"id": 3}']
    rows.write_bytes(b"\n".join([*lines, lines[0]]))
    assert predict.main(ask("--keep-going", output=f"out{suffix}")) == 1
    assert "rows answered: 5, 3 of them by what is wrong with them" in capsys.readouterr().err
    path = tmp_path / f"out{suffix}"
    found = records(path) if suffix == ".jsonl" else list(csv.DictReader(path.open(newline="")))
    errors = [record.get("error") or "" for record in found]
    assert errors[0] == errors[4] == "" and found[0]["text"] == found[4]["text"] and not found[1]["label"]
    assert errors[1].startswith(f"{rows}:2: not well-formed json") and errors[2].startswith(f"{rows}:3: not UTF-8")
    assert errors[3].startswith(f"{rows}:4: of which task is it?")


def forked(line: list[str], prepare: Callable[[], None]) -> int:
    """Run the command in a child; its exit code, or minus the signal that killed it."""
    child = os.fork()
    if not child:
        code = 70
        try:
            prepare()
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            code = predict.main(line)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(event: int) -> None:
    """Kill this process before its so many-eth operation on files, or in the middle of writing a line."""
    count = itertools.count(1)

    def before(act: Any) -> Any:
        def acted(*given: Any, **named: Any) -> Any:
            if next(count) == event:
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*given, **named)

        return acted

    def torn(self: AnswerFile, rows: Any, done: Any) -> None:
        if next(count) == event:
            self._file.write(b'{"row": 99, "ta')
            self._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        add(self, rows, done)

    add = AnswerFile.add
    AnswerFile.add = torn  # type: ignore[method-assign]
    for name in ("fsync", "replace", "unlink"):
        setattr(os, name, before(getattr(os, name)))


@pytest.mark.parametrize(("output", "every"), [("out.jsonl", 1), ("out.csv", 5)])
def test_kills(output: str, every: int, ask: Any, tmp_path: Path) -> None:
    """Before every operation on files: the file that comes of it is that of a process that nobody kills."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(rows.read_text().replace('"toy_b"', '"toy_x"', 1))  # one that fails
    flags = ("--scores", "--keep-going", "--copy=id")
    assert predict.main(ask(*flags, output=output)) == 1
    whole = (tmp_path / output).read_bytes()
    for event in itertools.count(1, every):
        (tmp_path / output).unlink()
        code = forked(ask(*flags, output=output), lambda event=event: kill_at(event))  # type: ignore[misc]
        if code == 1:
            break
        assert code == -signal.SIGKILL, event
        assert not (tmp_path / output).exists() or (tmp_path / output).read_bytes() == whole
        again = forked(ask(*flags, "--resume", output=output), lambda event=event: kill_at(event + 2))  # type: ignore[misc]
        assert again in (1, -signal.SIGKILL)
        if again != 1:
            assert predict.main(ask(*flags, "--resume", output=output)) == 1
        assert (tmp_path / output).read_bytes() == whole, event
        left = [name for name in leftovers(tmp_path) if not name.endswith(".lock")]
        assert left == [], event
    assert event > 15


def test_a_kill_from_outside(ask: Any, tmp_path: Path) -> None:
    rows_file(tmp_path / "rows.jsonl", ROWS * 20)
    assert predict.main(ask(output="whole.jsonl")) == 0
    note = tmp_path / "out.jsonl.part.json"
    child = os.fork()
    if not child:
        os._exit(predict.main(ask()))
    while not (note.exists() and json.loads(note.read_text())["rows"] > 100):
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert predict.main(ask("--resume")) == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.usefixtures("hangup")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_interrupts(
    number: int,
    code: int,
    ask: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They leave what there is, and say how to go on; signals act as before then."""
    before = signal.getsignal(number)
    stream, calls = predictor.Predictor.stream, itertools.count(1)

    def interrupted(*given: Any, **named: Any) -> Any:
        if next(calls) == 3:
            os.kill(os.getpid(), number)
        return stream(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(predictor.Predictor, "stream", interrupted)
        assert predict.main(ask()) == code
    said = capsys.readouterr().err
    assert "16 rows are answered; go on with: compt-fast predict --prompts" in said and said.count("\n") == 1
    assert signal.getsignal(number) == before
    assert predict.main(ask("--resume")) == 0
    resumed = (tmp_path / "out.jsonl").read_bytes()
    assert predict.main(ask()) == 0
    assert (tmp_path / "out.jsonl").read_bytes() == resumed


@pytest.fixture
def interrupted(ask: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with a prediction that stopped at a bad row, of which the row is mended."""
    good = (tmp_path / "rows.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text(good.replace('"r20"', '"r20", "id": 3'))
    assert predict.main(ask()) == 2
    (tmp_path / "rows.jsonl").write_text(good)
    capsys.readouterr()
    return tmp_path


def test_other_rows_are_not_gone_on_with(interrupted: Path, ask: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows_file(interrupted / "rows.jsonl", [ROWS[0] | {"sentence": "book"}, *ROWS[1:]])
    line = ask("--resume")
    assert predict.main(line) == 2
    assert "rows.jsonl: its first 16 rows are not those that were answered before" in capsys.readouterr().err
    rows_file(interrupted / "rows.jsonl", ROWS[:3])
    assert predict.main(line) == 2
    rows_file(interrupted / "rows.jsonl", [*ROWS, ROWS[0]])
    assert predict.main(line) == 0
    assert len(records(interrupted / "out.jsonl")) == 23


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--scores"], "columns"),
        (["--batch-size=3"], "--batch-size"),
        (["--copy=id"], "columns"),
        (["--task=toy_a"], "prompts"),
    ],
)
def test_other_answers_are_not_gone_on_with(
    flags: list[str], what: str, interrupted: Path, ask: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    said = error_of(capsys, predict.main, ask("--resume", *flags))
    assert f"out.jsonl.part: began with other {what}: give the same again" in said


def test_what_is_left_and_damaged(interrupted: Path, ask: Any, capsys: pytest.CaptureFixture[str]) -> None:
    part, note = interrupted / "out.jsonl.part", interrupted / "out.jsonl.part.json"
    content = note.read_text()
    part.write_bytes(part.read_bytes()[:-3])
    assert "gone, or shorter than out.jsonl.part.json says" in error_of(capsys, predict.main, ask("--resume"))
    part.unlink()
    assert "gone, or shorter than out.jsonl.part.json says" in error_of(capsys, predict.main, ask("--resume"))
    note.write_text(content.replace('"rows": 16', '"rows": -16'))
    assert "counts, from 0" in error_of(capsys, predict.main, ask("--resume"))
    note.unlink()
    part.write_text("")
    assert "out.jsonl.part.json beside it is gone" in error_of(capsys, predict.main, ask("--resume"))


def test_one_process_at_a_time(ask: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tmp_path / "out.jsonl.part.lock", wait=False):
        assert "is at work on it; wait until it ends" in error_of(capsys, predict.main, ask())


@pytest.mark.parametrize(
    ("changes", "flags", "message"),
    [
        ({"output": "rows.jsonl"}, [], "rows.jsonl: the rows stand there (--input)"),
        ({"output": "gone/out.jsonl"}, [], "there is no folder"),
        ({"output": "out.txt"}, [], "answers are written as .jsonl or .csv, or printed (-)"),
        ({"output": "folder.csv"}, [], "folder.csv: a folder; name a file in it"),
        ({"input": "nowhere.csv"}, [], "nowhere.csv: cannot be read (No such file or directory)"),
        ({"input": "."}, [], "rows are read from files of"),
        ({"run": "pt-joint-k4-s1"}, [], "Did you mean 'pt-joint-k4-s0'?"),
        ({"run": None}, [], "both have a prompt of the task toy_a; say which run"),
        ({"prompts": "nowhere"}, [], "nowhere"),
        ({}, ["--task=toy_aa"], "Did you mean 'toy_a'?"),
        ({}, ["--copy=idd"], "rows.jsonl:1: no column 'idd' to copy"),
        ({}, ["--copy=id,task"], "--copy task: a column of the answers is called so"),
        ({}, ["--batch-size=0"], "batch_size is 0"),
        ({}, ["--batch-size=x"], "--batch-size takes a whole number, not 'x'"),
        ({}, ["--dtype=fp61"], "dtype 'fp61'"),
        ({}, ["--task-file=nowhere.toml"], "nowhere.toml"),
    ],
)
def test_bad_lines(
    changes: dict[str, Any],
    flags: list[str],
    message: str,
    ask: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "folder.csv").mkdir()
    assert message in error_of(capsys, predict.main, ask(*flags, **changes))
    assert leftovers(tmp_path) == []


def test_resume_needs_a_file(ask: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--resume goes on with a file" in error_of(capsys, predict.main, ask("--resume", output="-"))


def test_nobody_reads_the_output(ask: Any) -> None:
    def closed() -> None:
        read, write = os.pipe()
        os.dup2(write, 1)
        os.close(read)
        sys.stdout = os.fdopen(1, "w")

    assert forked(ask(output="-"), closed) == 141
