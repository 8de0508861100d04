"""One TorchScript file: trunk, prompts, answers and label scores, for torch and the extension's library alone."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

from compt_fast import native
from compt_fast.exports import Export, check_family
from compt_fast.exports.peft import is_hub_name
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.models.scripted.trunk import ScriptedTask, ScriptedTrunk
from compt_fast.models.spiece import sentencepiece_model
from compt_fast.native.build import FACTS
from compt_fast.prediction.predictor import Predictor, ReadyTask
from compt_fast.prediction.stored import stored_prompt
from compt_fast.prompts import card
from compt_fast.tasks.text import names_before
from compt_fast.utils.errors import InputError
from compt_fast.utils.files import write_json, write_text

MODEL, DESCRIPTION, PIECES = "model.pt", "tasks.json", "spiece.model"

LOAD = """import json

import torch
from tokenizers import Tokenizer

torch.ops.load_library("./{library}")
model = torch.jit.load("model.pt")
about = json.load(open("tasks.json", encoding="utf-8"))
tokenizer = Tokenizer.from_file("tokenizer.json")
task = next(task for task in about["tasks"] if task["name"] == "{task}")
parts = [part for before, text in zip(task["before"], {texts}) for part in (before, text)]
row = [token for part in parts for token in tokenizer.encode(part, add_special_tokens=False).ids] + [about["end_id"]]
answers, _ = model.answer(torch.tensor(row), torch.tensor([0, len(row)]), torch.tensor([task["index"]]))
print([tokenizer.decode(answers.tolist())])
"""


def write(predictor: Predictor, folder: Path) -> None:
    """Fill `folder` with `model.pt`, `tasks.json`, the tokenizer's files, the extension's library with its facts, and a
    card.

    Raises `InputError` for another engine than `fast`, for a trunk in int8, for prompts that are composed for each row
    or stand beside an update of the text, and where the extension is not loaded.
    """
    trunk = predictor.trunk
    check_family(trunk, "torchscript")
    if not isinstance(trunk, PackedTrunk):
        raise InputError("torchscript holds the trunk of the engine fast: load the prompts with --engine fast")
    if not trunk.differentiable:
        raise InputError("torchscript holds a trunk in fp32 or bf16: take another --dtype than int8")
    library = _library()
    tasks = [_task(one) for one in predictor.ready.values()]
    module = ScriptedTrunk(trunk.weights, tasks, trunk.start_id, trunk.end_id, trunk.prepend)
    with warnings.catch_warnings():
        # torch asks for torch.export in its place, which has no file for packed rows: their shapes are data
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(folder / MODEL))
    write_json(folder / DESCRIPTION, _description(predictor, trunk, tasks, library))
    for file in (library, library.with_name(FACTS)):
        shutil.copy2(file, folder)
    trunk.tokenizer.save_pretrained(folder)
    if (pieces := sentencepiece_model(trunk.tokenizer)) is not None:
        (folder / PIECES).write_bytes(pieces)
    write_text(folder / "README.md", _card(predictor, library))


def _library() -> Path:
    """The extension's library, which is loaded: TorchScript looks its operators up."""
    native.load()
    status = native.status()
    if status.path is None:
        raise InputError(f"torchscript needs the compiled operators and their library: {status.why}")
    return status.path


def _task(ready: ReadyTask) -> ScriptedTask:
    one, text = ready.prompt, ready.prompt.text
    if one.prompts.shape.per_row:
        raise InputError(
            f"{one.where}: the prompts of {one.task.name} are composed for each row by its text, and a TorchScript "
            "file holds one prompt a task"
        )
    if one.prompts.shape.updates_inputs:
        raise InputError(
            f"{one.where}: {one.prompts.shape.composition} adds to the embeddings of the text, beside the prompt of "
            f"{one.task.name}, and a TorchScript file holds prompts alone"
        )
    assert text.prefix is not None and text.max_source_length is not None
    return ScriptedTask(
        one.task.name,
        names_before(one.task, text.prefix),
        text.max_source_length,
        one.prompts.tensors["targets"][one.index],
        ready.labels.texts,
        ready.labels.ids,
        ready.longest,
        ready.words,
    )


def _description(predictor: Predictor, trunk: PackedTrunk, tasks: list[ScriptedTask], library: Path) -> dict[str, Any]:
    """What `tasks.json` says."""
    columns = {name: [column for column, _ in task.fields] for name, task in predictor.tasks.items()}
    return {
        "format": 1,
        "trunk": {"name": trunk.name, "sha256": trunk.fingerprint(), "dtype": str(trunk.dtype).removeprefix("torch.")},
        "library": {"file": library.name} | json.loads(library.with_name(FACTS).read_text(encoding="utf-8")),
        "end_id": trunk.end_id,
        "tasks": [
            {
                "index": index,
                "name": task.name,
                "columns": columns[task.name],
                "before": task.before,
                "max_source_length": task.max_source_length,
                "labels": task.labels,
                "label_ids": task.label_ids,
                "words": task.words,
                "max_new_tokens": task.max_new_tokens,
            }
            for index, task in enumerate(tasks)
        ],
    }


def _card(predictor: Predictor, library: Path) -> str:
    entries = [stored_prompt(one) for one in predictor.prompts.values()]
    name, first = predictor.trunk.name, predictor.prompts[entries[0].task].task
    title = f"{name} with soft prompts, in TorchScript"
    texts = json.dumps([f"{{{column}}}" for column, _ in first.fields])
    lines = LOAD.format(library=library.name, task=first.name, texts=texts)
    return (
        f"{card.metadata(entries, 'pytorch', name if is_hub_name(name) else None, title)}\n# {title}\n\n"
        "One file answers rows of all these tasks, told apart by row, with torch and the library beside it alone. "
        f"`{DESCRIPTION}` says what is known of each task, and what the library was built for.\n\n"
        f"{card.table(entries, [card.text_of(entry) for entry in entries])}\n"
        f"Load it, here with this folder as the current one:\n\n```python\n{lines}```\n"
    )


ENTRY = Export(write)
