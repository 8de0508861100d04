"""The flags of `compt_fast.train`: one table, from which the command line, `--config` files and
`config.json` are read and checked.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compt_fast.config.choices import (
    ENCODERS,
    ENGINES,
    FITS,
    GATES,
    INITS,
    LABEL_MODES,
    NORMALISATIONS,
    PROMPT_POSITIONS,
    RETRAIN,
    ROUTERS,
    SAMPLINGS,
    SHARINGS,
)
from compt_fast.config.run import INIT_RANGE, MAX_TRAIN, PRESETS, RANDOM, SPOT, STORED
from compt_fast.utils.errors import InputError, shown, unknown
from compt_fast.utils.inputs import check_path, read_document
from compt_fast.utils.numbers import integer, number


def shot_count(text: str) -> int | str:
    """A number of examples a task, or `full`."""
    return "full" if text == "full" else integer(text)


def place(text: str) -> str:
    """A file or folder, absolute, so that a job can go on from another working directory."""
    return os.path.abspath(os.path.expanduser(text))


def trunk_name(text: str) -> str:
    """The absolute path of a folder that is there; 'mini' and names on the hub stay as they are."""
    path = place(text)
    return path if text != "mini" and os.path.isdir(path) else text


Parser = Callable[[str], Any]
CHOSEN_INITS = (RANDOM, STORED, SPOT)


@dataclass(frozen=True)
class Flag:
    """One flag. `many` flags take a comma list and multiply into runs; a default of None leaves the
    choice to preset or program.
    """

    name: str
    parse: Parser
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    many: bool = False
    listed: bool = False  # a comma list that stays one value (tasks, not runs)
    switch: bool = False  # --name / --no-name

    @property
    def key(self) -> str:
        return self.name.replace("-", "_")


def _run(name: str, parse: Parser, default: Any, help: str, *choices: str) -> Flag:
    return Flag(name, parse, default, help, choices, many=True)


RUN_FLAGS: tuple[Flag, ...] = (
    _run("method", str, ["spp", "pt", "mst"], "presets to train: " + ", ".join(PRESETS), *PRESETS),
    _run("shots", shot_count, [16], "examples a task, or 'full' (bounded by --max-train)"),
    _run("seeds", integer, [0], "each seed draws its own examples, initial prompts and order"),
    _run("sources", integer, None, "number of source prompts N"),
    _run("prompt-length", integer, None, "prompt tokens m"),
    _run("encoder", str, None, "prompt encoder", *ENCODERS),
    _run("encoder-hidden", integer, None, "inner width of the encoders mlp and lstm (default: d_model)"),
    _run("encoder-sharing", str, None, "who shares an encoder", *SHARINGS),
    _run("router", str, None, "how source weights arise", *ROUTERS),
    _run("normalisation", str, None, "how the router's logits become weights", *NORMALISATIONS),
    _run("gates", str, None, "alpha of the private prompt and beta of the sources", *GATES),
    _run("init", str, ["uniform"], "random prompt tokens: uniform noise or rows of the vocabulary", *INITS),
    _run("init-range", number, [INIT_RANGE], "uniform tokens lie in [-r, r]"),
    _run("source-init", str, None, "where sources start: as --init says, or from stored prompts", *CHOSEN_INITS[:2]),
    _run(
        "private-init",
        str,
        None,
        "where private prompts start: as --init says, from the task's own stored prompt, or (spot) from that of the "
        "most similar source task",
        *CHOSEN_INITS,
    ),
    _run("lr-source", number, None, "peak learning rate of the sources; 0 freezes them and their encoders"),
    _run("lr-private", number, None, "peak learning rate of the private prompts; 0 freezes them and their encoders"),
    _run(
        "lr-encoder",
        number,
        None,
        "peak learning rate of the prompt encoders; 0 freezes them (default: that of the prompts they encode; of one "
        "that sources and private prompts share, the sources')",
    ),
    _run("lr-router", number, None, "peak learning rate of router and gates; 0 freezes them"),
    _run("weight-decay", number, [0.01], "AdamW's decoupled weight decay"),
    _run("clip-norm", number, [1.0], "gradient norm of a run is clipped to this"),
    _run("warmup", number, [0.2], "share of the steps over which the rate rises"),
    _run(
        "epochs",
        integer,
        None,
        "passes over the examples (default: the preset's, doubled up to 10 shots)",
    ),
    _run("steps", integer, None, "training steps, instead of --epochs (default: whole epochs)"),
    _run("batch-size", integer, [16], "rows a step and run"),
    _run("label-mode", str, ["natural"], "words for the labels", *LABEL_MODES),
    _run("sampling", str, ["balanced"], "how the shots are drawn", *SAMPLINGS),
    _run("max-train", integer, [MAX_TRAIN], "examples a task with --shots full"),
)

JOB_FLAGS: tuple[Flag, ...] = (
    Flag("model", trunk_name, "mini", "trunk: 'mini' (embedded), a folder, or a hub name such as t5-base"),
    Flag(
        "suite",
        str,
        None,
        "tasks to train together: mini, mini2, glue, set2, crosspt-set2 (default: mini)",
    ),
    Flag("tasks", str, None, "tasks by name, instead of a suite", listed=True),
    Flag("include", str, [], "tasks to add to the suite", listed=True),
    Flag("exclude", str, [], "tasks to leave out of the suite", listed=True),
    Flag("task-file", place, [], "your own tasks: TOML or YAML files", listed=True),
    Flag("data-root", place, None, "local folder in the hub's layout (DIR/nyu-mll/glue/...)"),
    Flag("data", place, None, "local folder DIR/<task>/{train,validation}.{jsonl,csv,tsv,parquet}"),
    Flag(
        "skip-empty",
        str,
        False,
        "leave out rows of --data and task files that lack a text or label (default: refuse them)",
        switch=True,
    ),
    Flag("prefix", str, True, "begin each text with '<task>:' (default: yes)", switch=True),
    Flag("prompt-position", str, "prepend", "the prompt's place", PROMPT_POSITIONS),
    Flag("max-source-length", integer, 256, "tokens of a text, the prompt not counted"),
    Flag(
        "apart",
        str,
        None,
        "a run for each task alone, or one for all tasks (default: as the papers train the method: "
        + ", ".join(name for name, preset in PRESETS.items() if preset.apart)
        + " each task alone, the others all together)",
        switch=True,
    ),
    Flag("store", place, None, "folder of stored prompts (default: store/ in the run folder)"),
    Flag(
        "source-tasks",
        str,
        None,
        "tasks, or suites, whose stored prompts runs start from; what the store lacks is trained first (default: the "
        "tasks trained)",
        listed=True,
    ),
    Flag("source-examples", integer, 200, "examples a task that lacking source prompts are trained on, at most"),
    Flag("source-steps", integer, None, "steps that train them (default: the epochs of the preset p)"),
    Flag(
        "fit-length",
        str,
        None,
        "what to do with a stored prompt of another length: its first tokens, means of neighbouring ones, its tokens "
        "again and again, or train one of the right length (default: refuse it)",
        (*FITS, RETRAIN),
    ),
    Flag(
        "out",
        str,
        None,
        "run folder (default: runs/<suite>-<time>); one that is there is extended by the runs that it lacks",
    ),
    Flag("engine", str, "auto", "what runs the trunk", ENGINES),
    Flag("device", str, "auto", "where the trunk runs", ("auto", "cpu", "cuda")),
    Flag(
        "dtype",
        str,
        "auto",
        "the trunk's numbers; auto is bf16 on a GPU and fp32 elsewhere",
        ("auto", "bf16", "fp32"),
    ),
    Flag(
        "cuda-graphs",
        str,
        False,
        "on a GPU, replay training steps as CUDA graphs (default: no, as nothing of it is measured on a GPU yet)",
        switch=True,
    ),
    Flag(
        "runs-at-once",
        integer,
        12,
        "runs that train side by side, in one pass over the trunk, while the rest wait: more take more memory, and "
        "fill a larger device; what a run learns does not depend on it (on a CPU in fp32 to the last bit)",
    ),
    Flag("eval-size", integer, 300, "evaluation rows a task"),
    Flag("eval-batch-size", integer, 128, "rows a batch in evaluation"),
    Flag(
        "scoring",
        str,
        "generate",
        "greedy decoding, or likelihood of each label",
        ("generate", "rank"),
    ),
    Flag(
        "select",
        str,
        "last",
        "weights that are reported: last, or best on the development sample",
        ("last", "best"),
    ),
    Flag("checkpoint-every", integer, 200, "steps between checkpoints"),
    Flag("tensorboard", str, False, "also write TensorBoard events", switch=True),
)
FLAGS: dict[str, Flag] = {flag.key: flag for flag in RUN_FLAGS + JOB_FLAGS}

MOST_RUNS = 10_000  # of a job: their plan alone takes seconds
AT_LEAST_ONE = (
    "max_source_length",
    "runs_at_once",
    "eval_size",
    "eval_batch_size",
    "checkpoint_every",
    "source_examples",
    "source_steps",
)

# Sizes of runs whose upper ends no other check knows: what a run takes grows with them.
MOST = {"sources": 10_000, "encoder_hidden": 100_000, "prompt_length": 100_000, "batch_size": 1_000_000}

Flags = dict[str, Any]
"""Every flag by key; run flags hold a list of values, or None where the preset decides."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add every flag of the table to `parser`, values kept as the user's text (or None)."""
    titles = (("runs (comma lists multiply into a fleet)", RUN_FLAGS), ("job", JOB_FLAGS))
    for title, flags in titles:
        group = parser.add_argument_group(title)
        for flag in flags:
            add_flag(group, flag, _help(flag))


def add_flag(parser: argparse._ActionsContainer, flag: Flag, help: str) -> None:
    """Add one flag, its value kept as the user's text (of a switch as true or false), or None."""
    name = f"--{flag.name}"
    if flag.switch:
        parser.add_argument(name, action=argparse.BooleanOptionalAction, default=None, help=help)
    else:
        parser.add_argument(name, default=None, metavar=_metavar(flag), help=help)


def _metavar(flag: Flag) -> str:
    words: dict[Parser, str] = {integer: "N", number: "X", shot_count: "K", place: "PATH"}
    word = words.get(flag.parse, flag.name.split("-")[-1].upper())
    return f"{word}[,{word}]" if flag.many or flag.listed else word


def meaning(flag: Flag) -> str:
    """What a flag is for, and its choices, for a help text."""
    text = flag.help
    if flag.choices and flag.name != "method":
        text += ": " + ", ".join(flag.choices)
    return text.replace("%", "%%")


def _help(flag: Flag) -> str:
    default = ",".join(map(str, flag.default)) if isinstance(flag.default, list) else flag.default
    if default is None and flag.many:
        default = "the preset's"
    shown = default not in (None, "", True, False) and "(default:" not in flag.help
    return meaning(flag) + (f" (default: {default})" if shown else "")


def read_flags(given: dict[str, Any], config: str | None) -> Flags:
    """Flags from the command line over those of the file `config` over the defaults, each checked.

    Raises `InputError` that names the flag (or the file and the key) and what it takes.
    """
    return merge_flags(given, read_config(Path(config)) if config is not None else {}, str(config))


def merge_flags(given: dict[str, Any], settings: dict[str, Any], where: str) -> Flags:
    """Flags from the command line over the `settings` that stand in `where` over the defaults, each
    checked; None leaves a flag as it is.

    Raises `InputError` that names the flag (or `where` and the key) and what it takes.
    """
    flags = {key: flag.default for key, flag in FLAGS.items()}
    for key, value in settings.items():
        if value is not None:
            flags[key] = parse(key, value, f"{where}: {key}")
    for key, value in given.items():
        if value is not None:
            flags[key] = parse(key, value, f"--{FLAGS[key].name}")
    for key in AT_LEAST_ONE:
        if flags[key] is not None and flags[key] < 1:
            raise InputError(f"--{FLAGS[key].name} must be above 0, not {flags[key]}")
    for count in flags["sources"] or ():
        if count < 0:
            raise InputError(
                f"--sources must be a number of source prompts, not {count}; without it the preset decides: sln and "
                "slpn take one a task, sil, sip and silp one a source task"
            )
    for key, most in MOST.items():
        for value in flags[key] or []:
            if not 0 <= value <= most:
                raise InputError(f"--{FLAGS[key].name} is a number from 0 to {most:,}, not {value:,}")
    if flags["steps"] is not None and flags["epochs"] is not None:
        raise InputError("--steps and --epochs exclude each other: name one")
    counts = {flag.name: len(flags[flag.key] or [None]) for flag in RUN_FLAGS}
    if math.prod(counts.values()) > MOST_RUNS:
        several = " * ".join(f"{n:,} --{name}" for name, n in counts.items() if n > 1)
        raise InputError(f"{several} make {math.prod(counts.values()):,} runs; a job has up to {MOST_RUNS:,}")
    return flags


def parse(key: str, value: Any, where: str) -> Any:
    """One flag's value from the text of a command line or the value of a configuration file."""
    flag = FLAGS[key]
    if flag.switch:
        if not isinstance(value, bool):
            raise InputError(f"{where} must be true or false, not {shown(value)}")
        return value
    if not (flag.many or flag.listed):
        return _one(flag, value, where)
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    parsed = [_one(flag, item, where) for item in items]
    if not parsed and flag.many:
        raise InputError(f"{where} is empty: give at least one value")
    twice, count = Counter(parsed).most_common(1)[0] if parsed else (None, 0)
    if count > 1:
        raise InputError(f"{where} names {twice} twice")
    return parsed


def typed(flag: Flag, value: Any) -> str:
    """A value that `parse` made, as a user types it: 'with --tasks rte,cola', 'without --tasks'."""
    if flag.switch and value is not None:
        return f"with --{'' if value else 'no-'}{flag.name}"
    values = [str(item) for item in (value if isinstance(value, list) else [value]) if item is not None]
    return f"with --{flag.name} {shlex.quote(','.join(values))}" if values else f"without --{flag.name}"


def _one(flag: Flag, value: Any, where: str) -> Any:
    text = str(value).strip() if isinstance(value, str | int | float) else ""
    is_path = flag.parse in (place, trunk_name) or flag.name == "out"
    if isinstance(value, bool) or not text or not (is_path or text.isprintable()):
        raise InputError(f"{where}: {shown(value)} is no value for it")
    if is_path:
        check_path(text, where)
    if flag.choices and text not in flag.choices:
        raise unknown(f"value of {where}", text, flag.choices)
    try:
        return flag.parse(text)
    except ValueError:
        expected: dict[Parser, str] = {integer: "a whole number", number: "a finite number"}
        what = expected.get(flag.parse, "a whole number or 'full'")
        raise InputError(f"{where} takes {what}, not {shown(text)}") from None


def read_config(path: Path) -> dict[str, Any]:
    """The flags that a TOML, YAML or JSON file sets; a run folder's `config.json` is such a file.

    Raises `InputError` for a missing or malformed file, and for keys that are no flags or stand
    there twice.
    """
    return check_settings(read_file(path), str(path))


def read_file(path: Path) -> dict[str, Any]:
    """What a TOML, YAML or JSON file of flags holds, unchecked; of a `config.json`, its flags.

    Raises `InputError` for a file that is missing, malformed or no table.
    """
    content = read_document(path)
    if isinstance(content, dict) and "flags" in content:
        content = content["flags"]
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected flags and their values, found {type(content).__name__}")
    return content


def check_settings(content: dict[str, Any], where: str) -> dict[str, Any]:
    """The content of a file or table by the keys of flags.

    Raises `InputError` that begins with `where` for keys that are no flags or stand there twice.
    """
    settings: dict[str, Any] = {}
    for name, value in content.items():
        key = str(name).replace("-", "_")
        if key not in FLAGS:
            raise unknown(f"flag in {where}:", str(name), FLAGS)
        if key in settings:
            raise InputError(f"{where}: {key} stands there twice")
        settings[key] = value
    return settings
