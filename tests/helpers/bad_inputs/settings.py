"""Flags, configuration files, task files and recipes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from compt_fast.config.fields import DECIMAL, SHOTS, WHOLE, WORD, Flag
from compt_fast.config.flags import FLAGS
from tests.helpers import jobs
from tests.helpers.bad_inputs import ANY_FILE, JSON_FILE, TEXT_FILE, Case, Make, Materials, spoilt_files

LONG = "9" * 5000
WHOLES = ("x", "1.5", "nan", "1e3", "0_1", "\uff11", "\u0663", LONG, "0x10", "True", "- 1", "-1", "1\0", "1" * 30)
DECIMALS = ("x", "nan", "inf", "-inf", "1e999", "1_0", "\uff11.5", "0x1p3", "1e", LONG, "-1", "1\0")
WORDS = ("x", "\uff41", "a" * 5000, "\0", "spp\x1b[31m")
WORKING = {"method": "spp", "shots": "2", "steps": "1", "eval-size": "2", "scoring": "rank", "prompt-length": "2"}


def line(folder: Path, **changes: str) -> list[str]:
    """A line of `train` that trains for a second, on a task whose files it writes."""
    task = jobs.toy_task(folder, "toy", 20)
    given = WORKING | {"task-file": task.name, "out": "out"} | {key.replace("_", "-"): v for key, v in changes.items()}
    return ["train", *(f"--{key}={value}" for key, value in given.items())]


def _bad_texts(flag: Flag) -> tuple[str, ...]:
    if flag.choices:
        return WORDS
    texts = {WHOLE: WHOLES, SHOTS: WHOLES, DECIMAL: DECIMALS}
    return texts.get(flag.kind, ())


def _flag(flag: Flag, text: str) -> Case:
    def make(folder: Path) -> list[str]:
        return line(folder, **{flag.name: text})

    return Case(f"flags/--{flag.name}={text[:12]!r}", make, (f"--{flag.name}",))


def _flags() -> Iterator[Case]:
    for flag in FLAGS.values():
        if flag.switch:
            for text in ("yes", "1", "", "\0"):
                yield _flag(flag, text)
            continue
        texts = ["", " ", *_bad_texts(flag)]
        if flag.many:
            texts += [",", "1,,1", ",".join(["3"] * 2)]
        if flag.kind.path:
            texts += ["\0", "a" * 300, "a/" * 3000]
        for text in texts:
            yield _flag(flag, text)


_GRIDS = {
    "millions of runs": {
        "seeds": ",".join(map(str, range(3000))),
        "lr-source": ",".join(f"0.{n}1" for n in range(1, 3000)),
    },
    "more runs than a job has": {"seeds": ",".join(map(str, range(20000)))},
}


def _sizes() -> Iterator[Case]:
    for name, flags in _GRIDS.items():

        def make(folder: Path, flags: dict[str, str] = flags) -> list[str]:
            return line(folder, **flags)

        yield Case(f"flags/{name}", make, ("--seeds", "runs"))
    for name in ("sources", "prompt-length", "encoder-hidden", "max-source-length"):
        for text in ("1000000000", "9" * 18):
            yield _flag(FLAGS[name.replace("-", "_")], text)


def _written(content: dict[str, Any], kind: str) -> str:
    if kind == "json":
        return json.dumps(content)
    if kind == "yaml":
        return yaml.safe_dump(content)
    return "".join(f"{key} = {_toml(value)}\n" for key, value in content.items())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value) if isinstance(value, float) else json.dumps(value)


_ODD: dict[str, Any] = {
    "true": True,
    "nested": [[1]],
    "table": {"a": 1},
    "empty table": {},
    "nan": float("nan"),
    "inf": float("inf"),
    "wide": 10**30,
    "nul": "a\0b",
    "text of blanks": "   ",
    "digits": "\uff11",
}


def _config(kind: str, content: dict[str, Any]) -> Make:
    def make(folder: Path) -> list[str]:
        given = WORKING | {"task_file": str(folder / jobs.toy_task(folder, "toy", 20).name), "out": str(folder / "out")}
        own = {key.replace("-", "_"): value for key, value in given.items()} | content
        (folder / f"job.{kind}").write_text(_written(own, kind))
        return ["train", "--config", f"job.{kind}"]

    return make


def _configs() -> Iterator[Case]:
    for number_, (key, flag) in enumerate(FLAGS.items()):
        kind = ("toml", "yaml", "json")[number_ % 3]
        for way, value in _ODD.items():
            is_text = flag.kind is WORD and not flag.choices
            if (is_text or flag.kind.path) and way in ("nan", "inf", "wide", "digits"):
                continue
            if (flag.switch and way == "true") or (flag.kind is DECIMAL and way == "wide"):
                continue
            yield Case(f"config/{kind}: {key} = {way}", _config(kind, {key: value}), (f"job.{kind}", key))
    for kind in ("toml", "yaml", "json"):
        good, ways = _config(kind, {}), [ANY_FILE, TEXT_FILE]
        for case in spoilt_files("config", f"job.{kind}", good, *ways, *([JSON_FILE] if kind == "json" else [])):
            if not case.name.endswith(("toml/empty", "yaml/empty")):
                yield case
        for way, text in _TEXTS[kind].items():
            yield Case(f"config/{kind}: {way}", _text(f"job.{kind}", text, good), (f"job.{kind}",))
        yield Case(f"config/{kind}: unknown", _config(kind, {"shoots": 3}), (f"job.{kind}", "shoots", "shots"))


def _text(name: str, text: str, good: Make) -> Make:
    def make(folder: Path) -> list[str]:
        made = good(folder)
        (folder / name).write_text(text)
        return made

    return make


_LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
_TEXTS: dict[str, dict[str, str]] = {
    "toml": {
        "deep": "a = " + "[" * 50_000,
        "nested": "a = " + "[" * 60 + "]" * 60,
        "digits": f"a = {LONG}",
        "hexadecimal": "a = 0x" + "f" * 50_000,
        "dotted": "a" + ".a" * 50_000 + " = 1",
        "doubled": "seeds = 1\nseeds = 2",
        "cut": "seeds = [1,",
        "date": "seeds = 2001-01-01",
    },
    "yaml": {
        "aliases": _LAUGHS,
        "alias of itself": "seeds: &a [*a]",
        "deep": "[" * 50_000,
        "flow": "{" * 20_000,
        "block": "- " * 20_000,
        "digits": f"seeds: {LONG}",
        "base 60": "seeds: 1" + ":59" * 20_000,
        "object": "!!python/object/apply:os.system [true]",
        "timestamp": "seeds: !!timestamp x",
        "doubled": "seeds: 1\nseeds: 2",
        "tab": "seeds:\n\t- 1",
        "list": "- 1\n- 2",
        "date": "seeds: 2001-01-01",
        "set": "seeds: !!set {1}",
        "binary": "seeds: !!binary aaaa",
        "key": "? [a]\n: 1",
    },
    "json": {},
}

_TASK: dict[str, Any] = {
    "name": "toy",
    "fields": ["sentence"],
    "labels": ["bad", "good"],
    "metric": ["accuracy"],
    "data": "toy.jsonl",
    "prefix": "toy",
    "label_column": "label",
}
_SCORE = {key: value for key, value in _TASK.items() if key not in ("labels", "metric")}
_NO_TEXT: tuple[Any, ...] = (3, True, [], {"a": 1}, "", "  ", "a\0b", "a\nb", "a" * 5000, 1.5, None)
_TASK_ODD: dict[str, tuple[Any, ...]] = {
    "name": (*_NO_TEXT, "a/b", "..", "-a", "a b", "rte", ["a"]),
    "fields": (3, True, [], {}, "sentence", [3], [[]], ["a", "a"], [""], {"a": 3}, {"": "a"}, ["a\0"], ["nowhere"]),
    "labels": (
        3,
        True,
        [],
        {},
        "bad",
        ["bad"],
        ["a", "a"],
        [True, False],
        [0, 1],
        ["a", ""],
        ["a", "b\0"],
        [["a"], "b"],
    ),
    "metric": (3, True, [], {}, "acc", ["accuracy", "accuracy"], "spearman", [1], ""),
    "data": (*_NO_TEXT, "nowhere.csv", "b" * 300, "/dev/zero", "..\0"),
    "prefix": _NO_TEXT,
    "label_column": (*_NO_TEXT, "nowhere"),
    "label_values": (3, ["a"], ["a", "a"], [1, 2], {"a": 1}),
    "thresholds": (3, [1], ["a"], [True], [2, 1], [float("nan")]),
    "dataset": ("org/own", 3),
    "train_split": ("train", 3),
}
_SCORES: tuple[Any, ...] = (
    3,
    True,
    [],
    "0-5",
    {"low": 0, "high": 5, "step": 1e-300},
    {"low": 0, "high": 1, "step": 1e-7},
    {"low": 0, "high": 5, "step": 0},
    {"low": 0, "high": 5, "step": -1},
    {"low": 5, "high": 0},
    {"low": 0, "high": 5, "step": 0.3},
    {"low": float("nan"), "high": 5},
    {"low": 0, "high": float("inf")},
    {"low": -1e308, "high": 1e308, "step": 1e308},
    {"low": 0, "high": 10**30, "step": 10**28, "more": 1},
    {"low": True, "high": 5},
    {"low": "0", "high": 5},
    {"low": [0], "high": 5},
)


def _task(kind: str, content: dict[str, Any]) -> Make:
    def make(folder: Path) -> list[str]:
        made = line(folder, task_file=f"own.{kind}")
        (folder / f"own.{kind}").write_text(_written({k: v for k, v in content.items() if v is not None}, kind))
        return made

    return make


def _tasks() -> Iterator[Case]:
    for key, values in _TASK_ODD.items():
        for n, value in enumerate(values):
            kind = ("toml", "yaml")[n % 2]
            if value is None and key in ("prefix", "label_column"):
                continue  # these may be left out
            yield Case(
                f"task/{kind}: {key} = {str(value)[:20]!r}", _task(kind, _TASK | {key: value}), _words(kind, key, value)
            )
    for n, value in enumerate(_SCORES):
        kind = ("toml", "yaml")[n % 2]
        yield Case(f"task/{kind}: score = {value!r}", _task(kind, _SCORE | {"score": value}), (f"own.{kind}", "score"))
    for kind in ("toml", "yaml"):
        good = _task(kind, _TASK)
        yield from spoilt_files("task", f"own.{kind}", good, ANY_FILE, TEXT_FILE)
        for way, text in _TEXTS[kind].items():
            yield Case(f"task/{kind}: {way}", _text(f"own.{kind}", text, good), (f"own.{kind}",))
        yield Case(f"task/{kind}: unknown", _task(kind, _TASK | {"label": 3}), (f"own.{kind}", "label", "labels"))
        yield Case(f"task/{kind}: twice", _twice(kind), (f"own.{kind}", "toy"))


def _twice(kind: str) -> Make:
    def make(folder: Path) -> list[str]:
        made = _task(kind, _TASK)(folder)
        return [*(part for part in made if "task-file" not in part), f"--task-file=toy.toml,own.{kind}"]

    return make


def _words(kind: str, key: str, value: Any) -> tuple[str, ...]:
    if value == ["nowhere"] or value == "nowhere":
        return ("toy.jsonl", "nowhere")  # said of the file that lacks the column
    if value == "/dev/zero":
        return (value, "jsonl, csv")
    if value in ("acc", "spearman"):
        return (f"own.{kind}", value)
    return (
        f"own.{kind}",
        {"dataset": "data", "label_values": "label_values", "thresholds": "thresholds"}.get(key, key),
    )


_RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "jobs of no table": ("jobs = 3", ("jobs",)),
    "a job of no table": ("[jobs]\na = 3", ("jobs.a",)),
    "a job with a path for a name": ('[jobs."../a"]\nseeds = 1', ("jobs.../a",)),
    "a job without a name": ('[jobs.""]\nseeds = 1', ("jobs.",)),
    "a long name": (f"[jobs.{'a' * 300}]\nseeds = 1", ("jobs.a",)),
    "another alphabet": ('[jobs."\uff41"]\nseeds = 1', ("jobs.",)),
    "an unknown flag": ("[jobs.a]\nshoots = 1", ("jobs.a", "shoots", "shots")),
    "mini of no table": ("mini = 3", ("mini",)),
    "an unknown flag of mini": ("[mini]\nshoots = 1", ("mini", "shoots")),
    "a suite of a list": ('suite = ["glue"]', ("suite",)),
    "a suite of a table": ("suite = {a = 1}", ("suite",)),
    "tasks of numbers": ("tasks = [1]", ("tasks",)),
    "tasks in a list": ('tasks = [["rte"]]', ("tasks",)),
    "tasks of a table": ("tasks = {a = 1}", ("tasks",)),
    "a task that is not embedded": ('tasks = ["stsb2"]', ("tasks", "stsb2")),
    "a suite that is none": ('suite = "gleu"', ("suite", "gleu")),
    "a value of a job": ('[jobs.a]\nseeds = "x"', ("seeds", "x")),
    "both": ("[jobs.a]\nsteps = 1\nepochs = 1", ("--steps", "--epochs")),
}


def _recipes() -> Iterator[Case]:
    for way, (text, wanted) in _RECIPES.items():

        def make(folder: Path, text: str = text) -> list[str]:
            (folder / "recipe.toml").write_text(text)
            return ["train", "--config", "recipe.toml", "--mini", "--out=out"]

        yield Case(f"recipe/{way}", make, wanted)


def _plain(*argv: str) -> Make:
    return lambda folder: list(argv)


_LINES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("train", "--shoots=3"): ("--shoots", "--shots"),
    ("train", "more"): ("more",),
    ("train", "--seeds"): ("--seeds",),
    ("train", "--mini"): ("--mini", "--config"),
    ("train", "--resume=nowhere"): ("nowhere",),
    ("train", "--resume=a\0b"): ("--resume",),
    ("train", "--resume=" + "a" * 300): ("--resume",),
    ("train", "--resume=.", "--out=x"): ("--out",),
    ("train", "--config=nowhere.toml"): ("nowhere.toml",),
    ("train", "--config=a\0b.toml"): ("NUL",),
    ("train", "--config=" + "a" * 300 + ".toml"): ("aaa",),
    ("train", "--config=job.txt"): ("job.txt", ".toml"),
    ("train", "--suite=gleu"): ("gleu", "glue"),
    ("train", "--tasks=rte,rte"): ("rte", "twice"),
    ("train", "--tasks=mini_rtee"): ("mini_rtee", "mini_rte"),
    ("train", "--include=x"): ("'x'",),
    ("train", "--exclude=x"): ("'x'",),
    ("train", "--suite=mini", "--tasks=rte"): ("suite",),
    ("train", "--data=.", "--data-root=."): ("--data-root", "--data"),
    ("train", "--suite=glue", "--data-root=nowhere", "--model=mini"): ("nowhere",),
    ("train", "--suite=glue", "--data=nowhere", "--model=mini"): ("nowhere",),
    ("train", "--tasks=mini_rte", "--model=./nowhere"): ("nowhere",),
    ("train", "--tasks=mini_rte", "--model=a/b/c"): ("a/b/c",),
    ("train", "--tasks=mini_rte", "--source-tasks=x", "--method=sil"): ("'x'",),
    ("train", "--tasks=mini_rte", "--method=pt", "--sources=2"): ("--sources",),
    ("train", "--tasks=mini_rte", "--method=spp", "--warmup=2"): ("--warmup",),
    ("train", "--tasks=mini_rte", "--seeds=4294967296"): ("--seeds",),
    ("train", "--tasks=mini_rte", "--shots=100000"): ("mini_rte", "--shots"),
    ("train", "--tasks=mini_rte", "--max-source-length=3"): ("mini_rte", "--max-source-length"),
    ("evaluate", "nowhere"): ("nowhere",),
    ("evaluate", "a\0b"): ("RUN",),
    ("evaluate", "a" * 300): ("RUN",),
    ("evaluate",): ("RUN",),
    ("report", "nowhere", "-o", "out"): ("nowhere",),
    ("report", "a\0b", "-o", "out"): ("RUN",),
    ("report", "a" * 300, "-o", "out"): ("RUN",),
    ("report", "."): ("-o DIR",),
    ("report", ".", "-o", "a\0b"): ("--out",),
    ("store", "lst", "--store=s"): ("lst", "list"),
    ("store", "list"): ("--store",),
    ("store", "list", "--store=a\0b"): ("--store",),
    ("store", "list", "--store=" + "a" * 300): ("--store",),
    ("store", "show", "x", "--store=nowhere"): ("'x'",),
    ("store", "show", "../x", "--store=nowhere"): ("'../x'",),
    ("store", "remove", "x", "--store=nowhere"): ("'x'",),
    ("store", "add", "nowhere.pt", "--store=s", "--task=a"): ("nowhere.pt",),
    ("store", "add", "a\0b", "--store=s", "--task=a"): ("PATH",),
    ("store", "add", "a" * 300, "--store=s", "--task=a"): ("PATH",),
    ("info", "more"): ("more",),
}


def _lines() -> Iterator[Case]:
    for argv, wanted in _LINES.items():
        yield Case(f"line/{' '.join(argv)[:60]!r}", _plain(*argv), wanted)


def cases(materials: Materials) -> Iterator[Case]:
    """Bad flags, configuration files, task files, recipes and command lines."""
    parts: tuple[Callable[[], Iterator[Case]], ...] = (_flags, _sizes, _configs, _tasks, _recipes, _lines)
    return (case for part in parts for case in part())


def sound(materials: Materials) -> Iterator[Case]:
    """The same, with nothing wrong."""
    yield Case("flags", line, ())
    for kind in ("toml", "yaml", "json"):
        yield Case(f"config/{kind}", _config(kind, {}), ())
    for kind in ("toml", "yaml"):
        yield Case(f"task/{kind}", _task(kind, _TASK), ())
