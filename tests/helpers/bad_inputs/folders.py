"""Prompt stores and run folders, whose files people copy, edit and cut off."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.helpers.bad_inputs import (
    ANY_FILE,
    GONE,
    JSON_FILE,
    NO_NUMBER,
    NO_SWITCH,
    NO_TABLE,
    NO_TEXT,
    NO_WHOLE,
    TEXT_FILE,
    WEIGHTS_FILE,
    Case,
    Make,
    Materials,
    edited_json,
    spoilt_files,
)

ENTRY = "toy-m2"
RUN = "spp-n3-k2-s0"


def _copied(source: Path, name: str, *line: str) -> Make:
    def make(folder: Path) -> list[str]:
        shutil.copytree(source, folder / name)
        return list(line)

    return make


_KEYS: dict[str, dict[str, Any]] = {
    "format": NO_WHOLE | {"next": 3, "gone": GONE},
    "kind": NO_TEXT | {"other": "prompts", "gone": GONE},
    "definitions": NO_TABLE | {"gone": GONE},
    "source_tasks": {"text": "toy", "numbers": [3], "gone": GONE},
    "text": NO_TABLE | {"gone": GONE},
    "trunk": NO_TABLE | {"gone": GONE},
    "shape": NO_TABLE | {"gone": GONE},
    "tensors": NO_TABLE | {"gone": GONE},
    "sha256": NO_TEXT | {"none": None, "gone": GONE},
    "training": NO_TABLE | {"gone": GONE},
    "created": NO_TEXT | {"gone": GONE},
}
"""Keys that manifests of both kinds have, with what none of them can be."""


def _edited_parts(name: str, path: str, good: Make) -> Iterator[Case]:
    """The tables within a manifest, edited."""
    for key in ("name", "sha256", "dtype"):
        yield from edited_json(name, path, good, ["trunk", key], NO_TEXT)
    yield from edited_json(name, path, good, ["trunk", "d_model"], NO_WHOLE | {"other": 7, "gone": GONE})
    yield from edited_json(name, path, good, ["trunk", "more"], {"text": "a"})
    yield from edited_json(name, path, good, ["text", "prefix"], NO_SWITCH)
    yield from edited_json(name, path, good, ["text", "max_source_length"], NO_WHOLE | {"none": 0})
    for key in ("prompt_position", "label_mode"):
        yield from edited_json(name, path, good, ["text", key], NO_TEXT | {"other": "own"})
    task = ["definitions", "toy"]
    yield from edited_json(name, path, good, task, NO_TABLE)
    yield from edited_json(name, path, good, [*task, "name"], NO_TEXT | {"path": "../a", "gone": GONE})
    yield from edited_json(name, path, good, [*task, "labels"], {"text": "a", "numbers": [1, 2], "gone": GONE})
    yield from edited_json(name, path, good, [*task, "metric"], {"other": "beauty"})
    for key in ("input", "label_texts"):
        yield from edited_json(name, path, good, [*task, key], NO_TEXT | {"other": "a", "gone": GONE})
    yield from edited_json(name, path, good, [*task, "more"], {"unknown": 1})


def _store(materials: Materials) -> Iterator[Case]:
    good = _copied(materials.store, "s", "store", "show", ENTRY, "--store=s")
    path = f"s/{ENTRY}/manifest.json"
    yield from spoilt_files("store", path, good, ANY_FILE, TEXT_FILE, JSON_FILE)
    yield from spoilt_files("store", f"s/{ENTRY}/prompt.safetensors", good, ANY_FILE, WEIGHTS_FILE)
    kinds: dict[str, dict[str, Any]] = _KEYS | {
        "name": NO_TEXT | {"other": "other", "gone": GONE},
        "tasks": {"text": "toy", "numbers": [3], "none": [], "more": ["toy", "b"], "path": ["../a"], "gone": GONE},
        "score": NO_TABLE | {"gone": GONE},
    }
    for key, values in kinds.items():
        yield from edited_json("store", path, good, [key], values)
    yield from _edited_parts("store", path, good)
    for way, score in {
        "no value": {"metric": "a"},
        "a text": {"metric": "a", "value": "b"},
        "no metric": {"value": 1.0},
    }.items():
        yield from edited_json("store", path, good, ["score"], {way: score})
    for key, value in {"length": 3, "d_model": 191, "composition": "spp", "tasks": 2}.items():
        for case in edited_json("store", path, good, ["shape", key], {"other": value}):
            yield Case(case.name, case.make, (ENTRY, "shape"))
    for case in edited_json("store", path, good, ["sha256"], {"other": "0" * 64}):
        yield Case(case.name, case.make, (ENTRY, "sha256"))


_FIELDS: dict[str, dict[str, Any]] = {
    "method": NO_TEXT,
    "shots": {k: v for k, v in NO_WHOLE.items()},
    "seed": NO_WHOLE,
    "sources": NO_WHOLE,
    "private": NO_SWITCH,
    "prompt_length": NO_WHOLE,
    "encoder": NO_TEXT,
    "init_range": NO_NUMBER,
    "lr_source": NO_NUMBER,
    "warmup": NO_NUMBER,
    "task": NO_TEXT,
}


def _configs(materials: Materials) -> Iterator[Case]:
    path = "r/config.json"
    for command in (["report", "r", "-o", "out"], ["train", "--resume=r"], ["evaluate", "r"]):
        good, name = _copied(materials.run, "r", *command), f"run/{command[0]}"
        ways = {
            k: v for k, v in ANY_FILE.items() if k not in ("removed", "dangling", "loop", "folder", "pipe", "device")
        }
        yield from spoilt_files(name, path, good, ways, TEXT_FILE, JSON_FILE)
        for way in ("removed", "dangling", "loop", "folder", "pipe", "device"):
            yield from spoilt_files(name, path, good, {way: ANY_FILE[way]})
        yield from edited_json(name, path, good, ["flags"], NO_TABLE)
        yield from edited_json(name, path, good, ["flags", "shoots"], {"unknown": 3})
        for key in ("seeds", "prefix", "scoring", "max_source_length", "eval_size"):
            yield from edited_json(
                name, path, good, ["flags", key], {"nested": [[1]], "table": {"a": 1}, "number": -1.5}
            )
    good = _copied(materials.run, "r", "report", "r", "-o", "out")
    for key, values in {"trunk": NO_TABLE | {"gone": GONE}, "runs": NO_TABLE | {"gone": GONE}}.items():
        yield from edited_json("run/report", path, good, [key], values)
    yield from edited_json("run/report", path, good, ["trunk", "sha256"], NO_TEXT | {"gone": GONE})
    for key, values in _FIELDS.items():
        yield from edited_json("run/report", path, good, ["runs", RUN, key], values)
    yield from edited_json("run/report", path, good, ["runs", RUN, "seed"], {"gone": GONE})
    yield from edited_json("run/report", path, good, ["runs", RUN, "more"], {"unknown": 1})
    yield from edited_json("run/report", path, good, ["runs", RUN], NO_TABLE)


def _results(materials: Materials) -> Iterator[Case]:
    good, path = _copied(materials.run, "r", "evaluate", "r"), "r/results.json"
    yield from spoilt_files("run/evaluate", path, good, ANY_FILE, TEXT_FILE, JSON_FILE)
    report = _copied(materials.run, "r", "report", "r", "-o", "out")
    for key, values in {
        "id": NO_TEXT | {"gone": GONE},
        "method": NO_TEXT,
        "sources": NO_WHOLE,
        "shots": NO_WHOLE,
        "seed": NO_WHOLE | {"gone": GONE},
        "status": NO_TEXT,
        "tasks": NO_TABLE,
        "average": NO_NUMBER,
        "more": {"unknown": 1},
    }.items():
        yield from edited_json("run/report", path, report, ["runs", 0, key], values)
    yield from edited_json("run/report", path, report, ["runs"], {"table": {}, "number": 3, "gone": GONE})
    task = ["runs", 0, "tasks", "toy"]
    yield from edited_json("run/report", path, report, task, NO_TABLE)
    for key, values in {
        "primary": NO_TEXT | {"gone": GONE, "other": "beauty"},
        "scores": NO_TABLE | {"gone": GONE},
        "n": NO_WHOLE | {"gone": GONE},
        "predictions": NO_TABLE | {"gone": GONE},
    }.items():
        for case in edited_json("run/report", path, report, [*task, key], values):
            wanted = ("results.json", "beauty") if "other" in case.name else case.wanted
            yield Case(case.name, case.make, wanted)
    yield from edited_json("run/report", path, report, [*task, "scores", "accuracy"], NO_NUMBER | {"gone": GONE})
    yield from edited_json("run/report", path, report, [*task, "predictions", "bad"], NO_TABLE)


def _prompts(materials: Materials) -> Iterator[Case]:
    add = _copied(materials.run, "r", "store", "add", f"r/prompts/{RUN}", "--store=s")
    score = _copied(materials.run, "r", "evaluate", "r")
    path = f"r/prompts/{RUN}/manifest.json"
    for name, good in (("run/add", add), ("run/evaluate", score)):
        kept = ("grown", "empty", "noise")
        yield from spoilt_files(name, path, good, {k: ANY_FILE[k] for k in kept}, TEXT_FILE, JSON_FILE)
        yield from spoilt_files(name, f"r/prompts/{RUN}/prompts.safetensors", good, ANY_FILE, WEIGHTS_FILE)
    kinds: dict[str, dict[str, Any]] = _KEYS | {
        "tasks": {
            "text": "toy",
            "numbers": [3],
            "none": [],
            "more": ["toy", "b"],
            "twice": ["toy", "toy"],
            "path": ["../a"],
        },
    }
    for key, values in kinds.items():
        yield from edited_json("run/add", path, add, [key], values)
    for case in edited_json("run/add", path, add, ["sha256"], {"other": "0" * 64}):
        yield Case(case.name, case.make, (f"prompts/{RUN}", "sha256"))
    yield from _edited_parts("run/add", path, add)
    for key, values in {
        "composition": NO_TEXT | {"other": "ssp", "gone": GONE},
        "tasks": NO_WHOLE | {"none": 0, "gone": GONE, "billions": 10**9},
        "sources": NO_WHOLE | {"none": 0, "negative": -1},
        "private": NO_SWITCH,
        "length": NO_WHOLE | {"none": 0},
        "d_model": NO_WHOLE | {"none": 0, "other": 7},
        "gates": NO_TEXT,
        "tau0": NO_NUMBER,
        "more": {"unknown": 1},
    }.items():
        for case in edited_json("run/add", path, add, ["shape", key], values):
            yield Case(case.name, case.make, ("manifest.json",))
    for value in ([1], 3, "a", None, [-1, 2, 3], [1.5, 2, 3], [[1], 2]):
        for case in edited_json("run/add", path, add, ["tensors", "targets"], {str(value): value}):
            yield Case(case.name, case.make, (f"prompts/{RUN}",))


def _steered(materials: Materials) -> Iterator[Case]:
    """What `steer` reads of a run folder, and what is asked of one where no job is going."""
    lines = {
        "no JSON": ("{\n", ("metrics.jsonl", "line 1")),
        "no object": ("[]\n", ("metrics.jsonl", "line 1")),
        "no run": ('{"step": 1}\n', ("metrics.jsonl", "line 1: run")),
        "no step": ('{"run": "a", "step": "b"}\n', ("metrics.jsonl", "line 1: step")),
    }
    for way, (content, wanted) in lines.items():

        def make(folder: Path, content: str = content) -> list[str]:
            line = _copied(materials.run, "r", "steer", "r", "list")(folder)
            (folder / "r" / "metrics.jsonl").write_text(content)
            return line

        yield Case(f"run/steer/metrics: {way}", make, wanted)
    asked: dict[tuple[str, ...], tuple[str, ...]] = {
        ("stop", "nobody"): ("unknown run 'nobody'", RUN),
        ("stop", RUN): ("r: no job is going there",),
        ("clone", RUN): ("clone: name at least one flag",),
        ("clone", RUN, "--lr-source=fast"): ("--lr-source", "fast"),
        ("add", "--method=spq"): ("--method", "spq"),
    }
    for what, words in asked.items():
        yield Case(f"run/steer/{' '.join(what)}", _copied(materials.run, "r", "steer", "r", *what), words)
    good = _copied(materials.run, "r", "train", "--resume=r")
    yield from edited_json(
        "run/train", "r/config.json", good, ["added"], {"text": "a", "path": ["../a"], "number": [1]}
    )


def cases(materials: Materials) -> Iterator[Case]:
    """Bad stores and run folders."""
    yield from _store(materials)
    yield from _configs(materials)
    yield from _results(materials)
    yield from _prompts(materials)
    yield from _steered(materials)


def sound(materials: Materials) -> Iterator[Case]:
    """The same, with nothing wrong."""
    yield Case("store/show", _copied(materials.store, "s", "store", "show", ENTRY, "--store=s"), ())
    yield Case("run/add", _copied(materials.run, "r", "store", "add", f"r/prompts/{RUN}", "--store=s"), ())
    yield Case("run/steer", _copied(materials.run, "r", "steer", "r", "list"), ())
    yield Case("run/evaluate", _copied(materials.run, "r", "evaluate", "r"), ())
