"""Model cards: what a person, and the hub, reads beside exported prompts."""

from __future__ import annotations

from collections.abc import Sequence

from compt_fast.config.run import RUN_FLAGS
from compt_fast.prompts.store import StoredPrompt
from compt_fast.tasks.table import Task
from compt_fast.tasks.text import input_text, label_texts
from compt_fast.utils.words import plural

_SHOWN = 12
"""Label texts that are listed; of more, as of a score's grid, the ends."""
_TRAINED = (*(flag.field for flag in RUN_FLAGS.values() if flag.in_id), "run", "imported", "combined")
"""What is said of how a prompt was trained, of what its manifest knows."""


def metadata(entries: Sequence[StoredPrompt], library: str, trunk: str | None, title: str) -> str:
    """The head of a card, between lines of dashes, as the hub reads it: library, trunk, tags, scores.

    `trunk` is its name on the hub, None where it has none.
    """
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-classification",
            task_name=entry.task,
            dataset_type=_data_id(entry),
            dataset_name=entry.task,
            metric_type=entry.score["metric"],
            metric_value=round(entry.score["value"], 2),
        )
        for entry in entries
        if entry.score is not None
    ]
    sets = sorted({entry.definition.dataset for entry in entries if entry.definition and entry.definition.dataset})
    data = ModelCardData(
        library_name=library,
        base_model=trunk,
        tags=["soft-prompt", "prompt-tuning", "compt_fast"],
        datasets=sets or None,
        model_name=title if results else None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def text_of(entry: StoredPrompt) -> str:
    """What the trunk reads behind or before the prompt: `rte: sentence1: {sentence1} sentence2: {sentence2}`."""
    task = _task(entry)
    return input_text(task, [f"{{{column}}}" for column, _ in task.fields], prefix=bool(entry.text.prefix))


def dtype_argument(entry: StoredPrompt) -> str:
    """The argument by which a trunk is loaded in the precision that the prompt was trained in."""
    return ', dtype="bfloat16"' if entry.trunk.dtype == "bf16" else ""


def table(entries: Sequence[StoredPrompt], texts: Sequence[str]) -> str:
    """A line a task: the text that is sent, labels, tokens of the prompt, score."""
    lines = ["| task | text | labels | prompt tokens | score |", "|---|---|---|---|---|"]
    for entry, text in zip(entries, texts, strict=True):
        cells = map(_cell, (entry.task, f"`{text}`", _labels(entry), str(entry.length), _score(entry)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def about(entry: StoredPrompt) -> str:
    """A table of all that is known of one prompt."""
    trunk = f"`{entry.trunk.name}`"
    if entry.trunk.sha256:
        trunk += f", SHA-256 of its weights in {entry.trunk.dtype} `{entry.trunk.sha256}`"
    config = entry.training.get("config")
    known = entry.training | (config if isinstance(config, dict) else {})
    trained = ", ".join(f"{key} {known[key]}" for key in _TRAINED if known.get(key) is not None)
    rows = {
        "prompt": f"{plural(entry.length, 'token')} of width {entry.d_model}",
        "trunk": trunk,
        "reads": f"`{text_of(entry)}`, of up to {entry.text.max_source_length} tokens",
        "writes": _labels(entry),
        "data": _data(_task(entry)),
        "score": _score(entry),
        "trained": trained or "elsewhere",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {_cell(text)} |" for name, text in rows.items())]) + "\n"


def _cell(text: str) -> str:
    """A text in a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def _task(entry: StoredPrompt) -> Task:
    assert entry.definition is not None, "an entry that is exported lacks nothing"
    return entry.definition


def _labels(entry: StoredPrompt) -> str:
    assert entry.text.label_mode is not None
    texts = label_texts(_task(entry), entry.text.label_mode)
    if len(texts) > _SHOWN:
        return f"a number, `{texts[0]}`, `{texts[1]}` ... `{texts[-1]}`"
    return ", ".join(f"`{text}`" for text in texts)


def _score(entry: StoredPrompt) -> str:
    return f"{entry.score['value']:.1f} % {entry.score['metric']}" if entry.score else "not known"


def _data(task: Task) -> str:
    if task.dataset:
        return f"`{task.dataset}`" + (f", `{task.config}`" if task.config else "")
    return "rows that compt_fast makes" if task.origin == "mini" else "rows of its own"


def _data_id(entry: StoredPrompt) -> str:
    task = _task(entry)
    return task.dataset or task.name
