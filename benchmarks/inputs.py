"""What the benchmarks run on: checkpoints of T5's shapes with random weights, and GLUE's rows.

Real rows and T5's own tokenizer come from the folder named by COMPT_FAST_SHARED, else from `shared` beside
the repository, if that is there. Else rows are made of random words, as long as GLUE's are (`LENGTHS`).
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

from compt_fast.config.flags import read_flags
from compt_fast.models.api import Trunk
from compt_fast.runs.job import Job, open_job
from compt_fast.tasks.table import SUITES, TASKS
from tests.helpers.shared import real
from tests.helpers.tiny_t5 import WORDS, make_t5

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = ("mini", "t5-small", "t5-base")
TOKENS = 32128  # rows of the published checkpoints' embedding tables
# Deciles (least, 10 %, ..., most) of the tokens of GLUE's inputs, from 185 to 300 scored rows a task.
LENGTHS = {
    "cola": (10, 12, 14, 15, 16, 16, 18, 19, 22, 25, 43),
    "mnli": (20, 30, 36, 42, 47, 52, 57, 63, 70, 83, 167),
    "mrpc": (37, 51, 59, 63, 68, 73, 78, 82, 87, 92, 110),
    "qnli": (30, 43, 48, 53, 57, 62, 66, 70, 78, 93, 176),
    "qqp": (23, 29, 31, 33, 36, 38, 41, 44, 49, 59, 110),
    "rte": (33, 46, 51, 56, 62, 66, 71, 86, 114, 161, 256),
    "sst2": (13, 22, 26, 30, 33, 37, 41, 44, 49, 57, 86),
    "stsb": (22, 28, 31, 34, 36, 39, 44, 50, 58, 68, 96),
}


def checkpoint(size: str, folder: Path) -> str:
    """What `--model` takes for a size: the embedded trunk, or a checkpoint made in `folder`."""
    if size == "mini":
        return size
    if not (folder / "config.json").is_file():
        make_t5(folder, size=size, tokenizer=real("t5-tokenizer"), tokens=TOKENS)
    return str(folder)


def rows(folder: Path) -> dict[str, str]:
    """The flags that name GLUE's rows: real ones, or made ones in `folder`."""
    if hub := real("hub"):
        return {"data_root": str(hub)}
    if not folder.exists():
        _make_rows(folder)
    return {"data": str(folder)}


def _make_rows(folder: Path) -> None:
    draw = random.Random(0)
    for task in SUITES["glue"]:
        (folder / task).mkdir(parents=True)
        for split, count in (("train", 100), ("validation", 60)):
            lines = [json.dumps(_made_row(task, i, draw)) + "\n" for i in range(count)]
            (folder / task / f"{split}.jsonl").write_text("".join(lines))


def _made_row(task: str, number: int, draw: random.Random) -> dict[str, Any]:
    decile = draw.randrange(10)
    low, high = LENGTHS[task][decile : decile + 2]
    # Of the tokens about eight are the task's name, the fields' and the end.
    words = [draw.choice(WORDS.split()) for _ in range(max(2, draw.randint(low, high) - 8))]
    fields = TASKS[task].fields
    parts = [words[i :: len(fields)] for i in range(len(fields))]
    label = number % 6 if task == "stsb" else number % len(TASKS[task].labels)
    texts = {f"sentence{i + 1}": " ".join(part) for i, part in enumerate(parts)}
    return texts | {"label": label}


def job(size: str, engine: str, dtype: str, folder: Path, runs: int = 1, trunk: Trunk | None = None) -> Job:
    """`runs` runs of `spp` on GLUE's tasks, or on the embedded ones, 16 rows a batch each; never at an end.

    `trunk` is that of the size, where it is there already.
    """
    given = {
        "suite": "mini" if size == "mini" else "glue",
        "model": checkpoint(size, folder / size) if trunk is None else size,
        "engine": engine,
        "dtype": dtype,
        "method": "spp",
        "seeds": ",".join(map(str, range(runs))),
        "runs_at_once": str(runs),
        "steps": "1000000",
        "eval_size": "300",
    }
    return open_job(read_flags(given | ({} if size == "mini" else rows(folder / "rows")), None), trunk=trunk)
