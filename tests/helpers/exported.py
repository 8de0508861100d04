"""Exports against the predictor that wrote them: loaded in fresh processes by the software they are for, and compared
string by string on rows of every embedded task.

    python -m tests.helpers.exported RUN --count 300
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import compt_fast
from compt_fast.exports import write_export
from compt_fast.prediction.predictor import Predictor
from compt_fast.prediction.stored import longest_label
from compt_fast.prompts.artifact import TextFormat, TrunkId
from compt_fast.prompts.store import PromptStore, StoredPrompt
from compt_fast.tasks.table import MAKERS, TASKS
from compt_fast.tasks.text import input_text

Answers = dict[str, list[str]]
Rows = dict[str, list[dict[str, Any]]]

# Each is a program of its own: it reads {"folder", "longest", "tasks": {task: {"texts", "tokens", "prepend"}}} and
# writes the answers to the texts of each task, in their order.
_HEAD = """
import json, sys
job = json.load(sys.stdin)
def save(answers):
    assert not any(name.startswith("compt_fast") for name in sys.modules)
    print(json.dumps({task: [text.strip() for text in texts] for task, texts in answers.items()}))
def parts(texts, size=64):
    return [texts[k : k + size] for k in range(0, len(texts), size)]
"""
PEFT = (
    _HEAD
    + """
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
trunk = job["folder"] + "/trunk"
tokenizer = AutoTokenizer.from_pretrained(trunk)
first, *others = job["tasks"]
base = AutoModelForSeq2SeqLM.from_pretrained(trunk)
model = PeftModel.from_pretrained(base, f"{job['folder']}/{first}", adapter_name=first)
for task in others:
    model.load_adapter(f"{job['folder']}/{task}", task)
answers = {}
for task, of in job["tasks"].items():
    model.set_adapter(task)
    answers[task] = []
    for texts in parts(of["texts"]):
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        ids = model.generate(**batch, max_new_tokens=job["longest"])
        answers[task] += tokenizer.batch_decode(ids, skip_special_tokens=True)
save(answers)
"""
)
PEFT_MIXED = (
    _HEAD
    + """
import torch
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
trunk = job["folder"] + "/trunk"
tokenizer = AutoTokenizer.from_pretrained(trunk)
model = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(trunk), job["folder"] + "/all")
tasks = list(job["tasks"])
rows = [(k, text) for column in zip(*(job["tasks"][task]["texts"] for task in tasks)) for k, text in enumerate(column)]
answers = {task: [] for task in tasks}
for part in parts(rows):
    batch = tokenizer([text for _, text in part], return_tensors="pt", padding=True)
    task_ids = torch.tensor([k for k, _ in part])
    ids = model.generate(**batch, task_ids=task_ids, max_new_tokens=job["longest"])
    for (k, _), text in zip(part, tokenizer.batch_decode(ids, skip_special_tokens=True)):
        answers[tasks[k]].append(text)
save(answers)
"""
)
_SENT = """
def sent(of):
    texts, prompt = of["texts"], of["prompt"]
    return [prompt + " " + text if of["prepend"] else text + "</s>" + prompt for text in texts]
"""
TRANSFORMERS = (
    _HEAD
    + _SENT
    + """
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(job["folder"])
model = AutoModelForSeq2SeqLM.from_pretrained(job["folder"])
answers = {}
for task, of in job["tasks"].items():
    answers[task] = []
    for texts in parts(sent(of)):
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=of["prepend"])
        ids = model.generate(**batch, max_new_tokens=job["longest"])
        answers[task] += tokenizer.batch_decode(ids, skip_special_tokens=True)
save(answers)
"""
)
CTRANSLATE2 = (
    _HEAD
    + _SENT
    + """
import ctranslate2, tempfile
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(job["folder"])
with tempfile.TemporaryDirectory() as folder:
    ctranslate2.converters.TransformersConverter(job["folder"]).convert(folder, quantization="float32", force=True)
    translator = ctranslate2.Translator(folder, compute_type="float32", intra_threads=1)
    answers = {}
    for task, of in job["tasks"].items():
        ids = [tokenizer(text, add_special_tokens=of["prepend"])["input_ids"] for text in sent(of)]
        found = translator.translate_batch(
            [tokenizer.convert_ids_to_tokens(row) for row in ids],
            beam_size=1, min_decoding_length=0, max_decoding_length=job["longest"],  # of its own at least 1 beside </s>
            max_input_length=0, max_batch_size=64,
        )
        written = [tokenizer.convert_tokens_to_ids(one.hypotheses[0]) for one in found]
        answers[task] = tokenizer.batch_decode(written, skip_special_tokens=True)
save(answers)
"""
)
PROGRAMS: dict[str, tuple[str, str]] = {
    "peft": ("peft", PEFT),
    "peft, tasks mixed": ("peft", PEFT_MIXED),
    "transformers": ("vocabulary", TRANSFORMERS),
    "ctranslate2": ("vocabulary", CTRANSLATE2),
}
"""The software, the format that it loads, and the program that does."""


def made_predictor(trunk: Path, store: Path, task: str = "rte", **text: Any) -> Predictor:
    """Over the checkpoint in a folder, with a drawn prompt of three tokens; `text` changes its text format."""
    width = json.loads((trunk / "config.json").read_text())["d_model"]
    values = torch.randn(3, width, generator=torch.Generator().manual_seed(5))
    definition = replace(TASKS["rte"], name=task)
    entry = StoredPrompt("mine", task, TrunkId(str(trunk)), values, text=TextFormat(**text), definition=definition)
    PromptStore(store).add(entry)
    return compt_fast.load(store)


def fresh(code: str, given: Any = None) -> str:
    """What a Python process prints that runs `code` on `given`, outside of this repository."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),
        env=environment,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def compared(predictor: Predictor, texts: Rows, software: str, folder: Path) -> Answers:
    """What the software answers to rows of each task, from an export in `folder`."""
    job: dict[str, Any] = {"folder": str(folder), "longest": longest_label(predictor), "tasks": {}}
    for task, rows in texts.items():
        one = predictor.prompts[task]
        columns = [column for column, _ in one.task.fields]
        job["tasks"][task] = {
            "texts": [
                input_text(one.task, [row[name] for name in columns], prefix=bool(one.text.prefix)) for row in rows
            ],
            "prompt": "".join(f"<{task}_{i}>" for i in range(one.prompts.tensors["targets"].shape[1])),
            "prepend": one.text.prompt_position == "prepend",
        }
    answers: Answers = json.loads(fresh(PROGRAMS[software][1], job).splitlines()[-1])
    return answers


def drawn(tasks: Sequence[str], count: int) -> Rows:
    """Rows of embedded tasks that no training sees."""
    return {task: MAKERS[task].draw(task, "validation", count, seed=1) for task in tasks}


def own_answers(predictor: Predictor, rows: Rows) -> Answers:
    """What the predictor writes for the rows of each task."""
    return {task: [answer.text for answer in predictor.predict(of, task)] for task, of in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare every export of a run with its own answers, row by row.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--run-id", default=None)
    parser.add_argument("--count", type=int, default=300, help="rows a task")
    line = parser.parse_args()
    predictor = compt_fast.load(line.run, run=line.run_id)
    rows = drawn(list(predictor.prompts), line.count)
    clock: Callable[[], float] = time.perf_counter
    began = clock()
    ours = own_answers(predictor, rows)
    words = sum(len(set(texts)) for texts in ours.values())
    print(f"compt_fast: {len(rows)} tasks, {line.count} rows each, {words} different answers, {clock() - began:.1f} s")
    with tempfile.TemporaryDirectory() as top:
        for software, (name, _) in PROGRAMS.items():
            folder = Path(top) / name
            if not folder.exists():
                write_export(predictor, name, folder)
            began = clock()
            found = compared(predictor, rows, software, folder)
            pairs = [(task, *pair) for task in rows for pair in zip(ours[task], found[task], strict=True)]
            other = [pair for pair in pairs if pair[1] != pair[2]]
            print(f"{software}: {len(pairs) - len(other)} of {len(pairs)} strings equal, {clock() - began:.1f} s")
            print(*other[:10], sep="\n", end="\n" if other else "")


if __name__ == "__main__":
    main()
