"""Flags from the command line, from configuration files, and from a run folder's own."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from compt_fast.config.flags import FLAGS, add_flags, excluded, parse, read_config, read_flags, typed
from compt_fast.config.job import JobSettings
from compt_fast.utils.errors import InputError


def parsed(*line: str) -> JobSettings:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return read_flags(vars(parser.parse_args(line)), None)


def test_defaults() -> None:
    settings = parsed()
    runs = settings.sweep.values
    assert settings.sweep.methods == ["spp", "pt", "mst"] and runs["shots"] == [16]
    assert runs["seed"] == [0] and "sources" not in runs
    assert settings.suite is None and settings.model == "mini" and settings.prefix is True
    assert settings == JobSettings() and list(settings.to_json()) == list(FLAGS)


def test_comma_lists_and_switches() -> None:
    settings = parsed("--method", "pt, spp", "--shots", "8,full", "--lr-source=0.1,1e-3", "--no-prefix")
    runs = settings.sweep.values
    assert settings.sweep.methods == ["pt", "spp"] and runs["shots"] == [8, "full"]
    assert runs["lr_source"] == [0.1, 0.001] and settings.prefix is False
    assert parsed("--tasks", "rte,cola").tasks == ["rte", "cola"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--method", "sp"], r"unknown value of --method 'sp'\. Did you mean 'spp'\?"),
        (["--gates", "learnt"], "Did you mean 'learned'"),
        (["--engine", "refrence"], "Did you mean 'reference'"),
        (["--seeds", "1,x"], "--seeds takes a whole number, not 'x'"),
        (["--shots", "many"], "--shots takes a whole number or 'full', not 'many'"),
        (["--lr-source", "nan"], "--lr-source takes a finite number, not 'nan'"),
        (["--seeds", "1,"], "--seeds: '' is no value for it"),
        (["--seeds", "1,2,1"], "--seeds names 1 twice"),
        (["--lr-source", "0.1,0.10"], "--lr-source names 0.1 twice"),
        (["--steps", "3", "--epochs", "2"], "--steps and --epochs exclude each other"),
        (["--sources", "-1"], "--sources must be a number of source prompts, not -1; .* sln and slpn take one a task"),
        (["--sources=3,-2"], "--sources must be a number of source prompts, not -2"),
        (["--runs-at-once", "0"], "--runs-at-once must be above 0, not 0"),
        (["--source-steps", "0"], "--source-steps must be above 0, not 0"),
        (["--seeds", "0_1"], "--seeds takes a whole number, not '0_1'"),
        (["--seeds", "\uff11"], "--seeds takes a whole number, not '\uff11'"),
        (["--seeds", "9" * 5000], r"--seeds takes a whole number, not '9+\.\.\.9+' \(5,002 characters\)"),
        (["--lr-source", "1e999"], "--lr-source takes a finite number"),
        (["--suite", "a\0"], r"--suite: 'a\\x00' is no value"),
        (["--out", "a\0"], r"--out: 'a\\x00' holds a NUL character"),
        (["--store", "a" * 256], "--store: 'a+.* is too long"),
        (["--encoder-hidden", "100001"], "--encoder-hidden is a number from 0 to 100,000, not 100,001"),
        (
            ["--seeds", ",".join(map(str, range(3000))), "--shots", "8,16,32", "--method", "pt,spp"],
            r"2 --method \* 3 --shots \* 3,000 --seeds make 18,000 runs; a job has up to 10,000",
        ),
        (["--eval-size", "-1"], "--eval-size must be above 0, not -1"),
        (["--eval-batch-size", "0"], "--eval-batch-size must be above 0"),
        (["--checkpoint-every", "0"], "--checkpoint-every must be above 0"),
        (["--max-source-length", "0"], "--max-source-length must be above 0"),
    ],
)
def test_wrong_values_are_named(line: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parsed(*line)


FILES = {
    "a.toml": 'method = ["pt", "spp"]\nlr-source = 0.5\nprefix = false\nseeds = [0, 1]\n',
    "a.yaml": "method: [pt, spp]\nlr_source: 0.5\nprefix: false\nseeds: 0,1\nsources: null\n",
    "a.json": '{"method": "pt,spp", "lr-source": [0.5], "prefix": false, "seeds": [0, 1]}',
}


@pytest.mark.parametrize("name", FILES)
def test_configuration_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(FILES[name])
    settings = read_flags({"seeds": "7"}, str(path))
    runs = settings.sweep.values
    assert settings.sweep.methods == ["pt", "spp"] and runs["lr_source"] == [0.5]
    assert settings.prefix is False and "sources" not in runs
    assert runs["seed"] == [7], "the command line goes before the file"
    assert runs["shots"] == [16], "what the file leaves out keeps its default"


def test_null_stands_for_the_default(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"seeds": null, "method": null, "eval_size": null}')
    assert read_flags({}, str(path)) == read_flags({}, None)


def test_places_are_kept_as_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t5-base").mkdir()
    (tmp_path / "mini").mkdir()
    settings = parsed("--task-file", "a.toml,../b.toml", "--data-root", "hub", "--model", "t5-base")
    assert settings.task_file == [str(tmp_path / "a.toml"), str(tmp_path.parent / "b.toml")]
    assert settings.data_root == str(tmp_path / "hub") and settings.model == str(tmp_path / "t5-base")
    assert parsed("--data", "~/rows").data == str(Path.home() / "rows")
    assert parsed("--model", "google/flan-t5-base").model == "google/flan-t5-base"
    assert parsed("--model", "mini").model == "mini", "whatever folders there are"


def test_a_run_folders_config_gives_its_flags_back(tmp_path: Path) -> None:
    settings = parsed("--shots", "8,full", "--tasks", "rte", "--lr-router", "0.125", "--track", "tensorboard")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"format": 1, "flags": settings.to_json(), "runs": {}}))
    assert read_flags({}, str(path)) == settings


@pytest.mark.parametrize(("text", "track"), [("true", ["tensorboard"]), ("false", [])])
def test_a_flag_of_former_times_is_understood(text: str, track: list[str], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(f'{{"tensorboard": {text}}}')
    assert read_flags({}, str(path)).track == track
    path.write_text('{"tensorboard": true, "track": "wandb"}')
    with pytest.raises(InputError, match="track stands there twice"):
        read_flags({}, str(path))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "shoots = 3", r"unknown flag in .*a\.toml: 'shoots'\. Did you mean 'shots'\?"),
        ("a.toml", "seeds = 1\nseeds = 2", "not well-formed toml"),
        ("a.json", '{"seeds": 1, "seeds": 2}', "the key 'seeds' stands there twice"),
        ("a.yaml", "lr-source: 1\nlr_source: 2", "lr_source stands there twice"),
        ("a.yaml", "seeds: [1", "not well-formed yaml"),
        ("a.json", "[1, 2]", "expected flags and their values, found list"),
        ("a.yaml", "seeds: x", "a.yaml: seeds takes a whole number, not 'x'"),
        ("a.yaml", "seeds: 1.5", "a.yaml: seeds takes a whole number, not '1.5'"),
        ("a.yaml", "seeds: true", "a.yaml: seeds: True is no value"),
        ("a.yaml", "seeds: []", "a.yaml: seeds is empty"),
        ("a.yaml", "seeds: [[1]]", "a.yaml: seeds: .* is no value"),
        ("a.yaml", "tasks: true", "a.yaml: tasks: True is no value"),
        ("a.yaml", "suite: {a: 1}", "a.yaml: suite: {'a': 1} is no value"),
        ("a.yaml", "suite: 2001-01-01", "a.yaml: suite: datetime.date.* is no value"),
        ("a.yaml", "prefix: 3", "a.yaml: prefix must be true or false, not 3"),
        ("a.txt", "seeds = 1", "must end in .toml, .yaml, .yml or .json"),
    ],
)
def test_wrong_configuration_files(name: str, text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_flags({}, str(path))


def test_a_configuration_file_that_is_not_there_or_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "latin.yaml").write_bytes("out: caf\xe9".encode("latin-1"))
    with pytest.raises(InputError, match="latin.yaml:1: not UTF-8"):
        read_config(tmp_path / "latin.yaml")


@pytest.mark.parametrize("key", [key for key, flag in FLAGS.items() if flag.default is not None])
def test_every_default_passes_its_own_check(key: str) -> None:
    assert parse(key, FLAGS[key].default, key) == FLAGS[key].default


@pytest.mark.parametrize("value", [None, []])
def test_a_flag_without_a_value_is_said_as_left_out(value: Any) -> None:
    assert typed(FLAGS["tasks"], value) == "without --tasks"


def test_values_are_said_as_they_are_typed() -> None:
    line = ["--tasks=rte,cola", "--shots=8,full", "--no-prefix", "--eval-size=5", "--data=/a folder"]
    settings = parsed(*line)
    said = {
        key: typed(FLAGS[key], settings.to_json()[key]) for key in ("tasks", "shots", "prefix", "eval_size", "data")
    }
    assert said == {
        "tasks": "with --tasks rte,cola",
        "shots": "with --shots 8,full",
        "prefix": "with --no-prefix",
        "eval_size": "with --eval-size 5",
        "data": "with --data '/a folder'",
    }
    assert parsed(*(word for text in said.values() for word in shlex.split(text)[1:])) == settings


def test_what_excludes_each_other() -> None:
    assert excluded({"steps": "3"}) == {"epochs"} and excluded({"epochs": "3"}) == {"steps"}
    assert excluded({"steps": None, "seeds": "1"}) == set()
