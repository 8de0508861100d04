"""Answers rows by an exported TorchScript file, with torch and tokenizers alone: no package of compt_fast.

    python examples/torchscript_answers.py FOLDER [--device cuda] < rows.tsv

A line of the input is a task and its texts, in the order of the task's `columns` in FOLDER/tasks.json, with tabs
between. A line is printed for each: the label, the text that the trunk wrote, and the label's share of the likelihoods
of all labels. The label is the one that this text stands for, else the likeliest, in the task's own words.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

AT_A_TIME = 128  # rows


def token_ids(tokenizer: Tokenizer, task: dict[str, Any], texts: list[str], end_id: int) -> list[int]:
    """A row's tokens: what stands before each text, and the texts, the longest of which are cut until all fit."""
    if len(texts) != len(task["columns"]):
        raise SystemExit(f"a row of {task['name']} has the texts {', '.join(task['columns'])}, not {len(texts)}")
    before, own = (
        [one.ids for one in tokenizer.encode_batch(of, add_special_tokens=False)] for of in (task["before"], texts)
    )
    room = task["max_source_length"] - sum(map(len, before)) - 1
    kept = [0] * len(own)
    by_length = sorted(range(len(own)), key=lambda i: len(own[i]))
    for done, i in enumerate(by_length):
        kept[i] = max(0, min(len(own[i]), room // (len(own) - done)))
        room -= kept[i]
    return [*(token for names, text, n in zip(before, own, kept, strict=True) for token in (*names, *text[:n])), end_id]


def answered(folder: Path, lines: Iterable[str], device: str) -> Iterator[str]:
    """A line of output for each of input."""
    about = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    torch.ops.load_library(str(folder / about["library"]["file"]))
    model = torch.jit.load(str(folder / "model.pt"), map_location=device)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tasks = {task["name"]: task for task in about["tasks"]}
    lines = iter(lines)
    while part := [line.rstrip("\n").split("\t") for line in islice(lines, AT_A_TIME)]:
        own = [tasks[name] for name, *_ in part]
        rows = [token_ids(tokenizer, task, texts, about["end_id"]) for task, (_, *texts) in zip(own, part, strict=True)]
        ids = torch.tensor([token for row in rows for token in row])
        cu_seqlens = torch.tensor([0, *map(len, rows)]).cumsum(0)
        indices = torch.tensor([task["index"] for task in own])
        with torch.inference_mode():
            answers, answer_ends, scores, score_ends = model(ids, cu_seqlens, indices)
        by_row = zip(answers.split(answer_ends.diff().tolist()), scores.split(score_ends.diff().tolist()), strict=True)
        for task, (answer, likely) in zip(own, by_row, strict=True):
            text = tokenizer.decode(answer.tolist()).strip()
            shares, labels = likely.softmax(0), task["labels"]
            chosen = labels.index(text) if text in labels else int(shares.argmax())
            yield f"{task['words'][chosen]}\t{text}\t{shares[chosen]:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    flags = parser.parse_args()
    for line in answered(flags.folder, sys.stdin, flags.device):
        print(line)


if __name__ == "__main__":
    main()
