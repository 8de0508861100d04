"""From what a predictor answers with back to the entries of a store, with all that is known of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from compt_fast.prediction.prompts import TaskPrompt
from compt_fast.prompts.store import StoredPrompt
from compt_fast.runs.initialisation import Need, entry_name, entry_of, scores_of
from compt_fast.tasks.text import encode_label, label_texts
from compt_fast.utils.errors import InputError

if TYPE_CHECKING:
    from compt_fast.prediction.predictor import Predictor


def stored_prompt(one: TaskPrompt) -> StoredPrompt:
    """The prompt of a task as an entry of a store, whose text format and definition lack nothing.

    Raises `InputError` for prompts that are composed per row, of which a task has no one prompt.
    """
    if "targets" not in one.prompts.tensors:
        raise InputError(
            f"{one.where}: with {one.prompts.shape.reads_rows} every row has a prompt of its own, and "
            f"{one.task.name} has none that could be written down; only compt_fast itself composes it"
        )
    if one.about is None:
        values = one.prompts.tensors["targets"][one.index]
        assert one.text.label_mode is not None
        need = Need(one.task.name, len(values), one.text.label_mode)
        entry = StoredPrompt(entry_name(need, one.text), one.task.name, one.trunk, values)
    elif one.about.kind == "prompt":
        entry = StoredPrompt.of(one.prompts, one.about, one.where)
    else:
        entry = entry_of(one.prompts, one.about, one.index, scores_of(Path(one.where)).get(one.task.name))
    return replace(entry, text=one.text, definition=one.task)


def longest_label(predictor: Predictor) -> int:
    """Tokens of the longest label of all tasks, its </s> included: as many as an answer takes."""
    tokenizer = predictor.trunk.tokenizer
    of = [(one.task, one.text.label_mode or "natural") for one in predictor.prompts.values()]
    return max(len(encode_label(text, tokenizer)) for task, mode in of for text in label_texts(task, mode))
