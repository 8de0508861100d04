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
from compt_fast.models.engines.fast import PackedTrunk
from compt_fast.models.scripted.trunk import ScriptedTask, ScriptedTrunk
from compt_fast.models.spiece import sentencepiece_model
from compt_fast.native.build import FACTS
from compt_fast.prediction.predictor import Predictor, ReadyTask
from compt_fast.tasks.text import names_before
from compt_fast.utils.errors import InputError
from compt_fast.utils.files import write_json

MODEL, DESCRIPTION, PIECES = "model.pt", "tasks.json", "spiece.model"


def write(predictor: Predictor, folder: Path) -> None:
    """Fill `folder` with `model.pt`, `tasks.json`, the tokenizer's files, and the extension's library with its facts.

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
                "words": predictor.ready[task.name].words,
                "max_new_tokens": task.max_new_tokens,
            }
            for index, task in enumerate(tasks)
        ],
    }


ENTRY = Export(write)
