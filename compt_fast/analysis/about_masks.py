"""What is left of a run with prompts switched off: masking tables and confusion tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from compt_fast.analysis import draw
from compt_fast.analysis.exhibits import Cell, Exhibit, Section, Table
from compt_fast.analysis.formulas import recalls
from compt_fast.analysis.runs import Entry, Masked, Material, suite_name
from compt_fast.analysis.words import slug
from compt_fast.prompts.artifact import load_prompts
from compt_fast.runs.loaded import LoadedJob, load_job
from compt_fast.runs.masking import Way, masked_scores, named_masks, read_masked, write_masked
from compt_fast.tasks.table import TASKS
from compt_fast.tasks.text import label_texts
from compt_fast.utils.errors import InputError
from compt_fast.utils.words import listed, short

MOST_ANSWERS = 5  # off-label strings that have a row of their own
NEEDED = 5  # points above either part alone from which on both are needed
SHOWN = 0.05  # a difference that the tables, of one decimal, may not show
WRITTEN = 18  # and how many of their characters stand there, if that tells them apart


def measured(entry: Entry, way: Way) -> Masked | None:
    """What the run folder's `masked.json` knows of a run masked in one way, if it belongs to the run's results."""
    masks: Masked = read_masked(entry.folder).get(way, {}).get(entry.id, {})
    whole = masks.get("total")
    return masks if whole is not None and whole["tasks"] == entry.result.tasks else None


def mask_count(entry: Entry) -> int:
    """How many maskings a run's prompts allow; 1 is none but the whole."""
    return len(named_masks(load_prompts(entry.stored[0])[0].shape))


def measure(entries: Sequence[Entry], way: Way, after_each: Callable[[], None]) -> None:
    """Score the masked prompts of runs and keep the scores beside them, in `masked.json`.

    A run's scores are written when all of its masks are scored; an interruption loses one run.
    `after_each` is called after every mask. Raises `InputError` where the trunk or the rows of a
    folder are not at hand.
    """
    opened: dict[Any, LoadedJob] = {}
    for entry in entries:
        if entry.folder not in opened:
            opened = {entry.folder: load_job(entry.folder, {})}
        scores = masked_scores(opened[entry.folder], [entry.id], "each", way, after_each=after_each)
        try:
            write_masked(entry.folder, way, scores)
        except OSError as error:
            raise InputError(f"{entry.folder}/masked.json: cannot be written ({error.strerror})") from None


def masking(material: Material) -> Section | None:
    """A table a run: each source alone, all sources, the private prompt alone, everything (ComPT, figures 3 and 5)."""
    exhibits = []
    for entry in material.portraits:
        masks = material.masked.get(entry.prompts)
        if masks and len(masks) > 1:
            exhibits.append(_masking(entry, masks, material))
    if not exhibits:
        return None
    intro = f"Scores with prompts switched off: {material.way.says}. The last column is the evaluation itself."
    return Section("Masking", intro, exhibits)


def _title(entry: Entry, material: Material) -> str:
    folder = f" ({material.names[entry.folder]})" if len(material.folders) > 1 else ""
    return f"{suite_name(entry.job)}: {entry.id}{folder}"


def _masking(entry: Entry, masks: Masked, material: Material) -> Exhibit:
    heads = [_mask_name(name) for name in masks]
    tasks = short(entry.tasks)
    values: list[list[float | None]] = [
        [_primary(masks[name]["tasks"][task]) for name in masks] for task in entry.tasks
    ]
    values.append([masks[name]["average"] for name in masks])
    title = _title(entry, material)
    rows = [f"{name} ({entry.metric(task)})" for name, task in zip(tasks, entry.tasks, strict=True)]
    cells: list[list[Cell]] = [[row, *line] for row, line in zip([*rows, "average"], values, strict=True)]
    gaps = [k for k, name in enumerate(masks) if k and name in ("sources", "private", "total")]
    return Exhibit(
        f"masking-{slug(title)}",
        title,
        _masking_say(entry, masks, tasks),
        "primary score in percent of each task, with its prompt reduced to what the column names "
        f"({material.way.name})",
        Table(["task", *heads], cells),
        draw.heatmap(
            values,
            [*tasks, "average"],
            heads,
            scale=draw.SCORE,
            label="primary score, %",
            decimals=0,
            gaps=gaps,
            blocks={len(tasks): ""},
        ),
    )


def _mask_name(name: str) -> str:
    if name.startswith("source-"):
        return "S" + name.removeprefix("source-")
    return "all sources" if name == "sources" else name


def _primary(task: dict[str, Any]) -> float:
    return float(task["scores"][task["primary"]])


def _sources_mask(masks: Masked) -> str | None:
    """The name of the mask that leaves the sources and nothing else; None where that is everything."""
    return next((name for name in ("sources", "source-1") if name in masks and "private" in masks), None)


def _masking_say(entry: Entry, masks: Masked, tasks: Sequence[str]) -> str:
    """Which tasks live on sources, which on the private prompt, which on both together."""
    total = masks["total"]["average"]
    sources = _sources_mask(masks)
    if sources is None:
        alone = {name: masks[name]["average"] for name in masks if name != "total"}
        best = max(alone, key=lambda name: alone[name])
        best_one = f"the best of them alone in the test, {_mask_name(best)}, {alone[best]:.1f} %"
        return f"Together the sources score {total:.1f} %; {best_one}."
    kinds: dict[str, list[str]] = {"sources": [], "private": [], "both": [], "neither": []}
    for task, name in zip(entry.tasks, tasks, strict=True):
        s, p, t = (_primary(masks[mask]["tasks"][task]) for mask in (sources, "private", "total"))
        kinds[_carrier(s, p, t)].append(name)
    words = {
        "sources": "the sources carry {}",
        "private": "the private prompts carry {}",
        "both": f"both together are needed for {{}} (over {NEEDED} points above either alone)",
        "neither": "neither part carries {} (no score above 0, or sources and private prompt alone level)",
    }
    text = "; ".join(words[kind].format(listed(names)) for kind, names in kinds.items() if names)
    return (
        f"{text[:1].upper()}{text[1:]}. On average sources alone score {masks[sources]['average']:.1f} %, private "
        f"prompts alone {masks['private']['average']:.1f} %, both {total:.1f} %."
    )


def _carrier(sources: float, private: float, total: float) -> str:
    """Which part of the prompt a task lives on, by its scores (percent) with either alone and with both."""
    lone = max(sources, private)
    if total - lone > NEEDED:
        return "both"
    if max(lone, total) <= 0 or abs(sources - private) < SHOWN:
        return "neither"
    return "sources" if sources > private else "private"


def confusion(material: Material) -> Section | None:
    """What is answered for which label by sources, private prompt and both (ComPT, tables 5 to 7)."""
    groups: dict[str, list[Exhibit]] = {}
    for entry in material.portraits:
        masks = material.masked.get(entry.prompts) or {}
        if _sources_mask(masks) is None:
            continue
        own = [
            _confused(entry, masks, task, name, material)
            for task, name in zip(entry.tasks, short(entry.tasks), strict=True)
            if "accuracy" in entry.result.tasks[task]["scores"]
        ]
        groups[_title(entry, material)] = own
    if not any(groups.values()):
        return None
    intro = (
        "Rows are the strings that were answered, columns the true labels; strings that are no label of the task stand "
        "in quotation marks. Each block answers with a part of the prompt: the sources alone, the private prompt "
        f"alone, both ({material.way.says}). Tasks whose answers are numbers are left out."
    )
    return Section("Confusion by masking", intro, [], groups)


def _confused(entry: Entry, masks: Masked, task: str, name: str, material: Material) -> Exhibit:
    sources = _sources_mask(masks)
    assert sources is not None
    blocks = {"sources": sources, "private": "private", "combined": "total"}
    counts = {head: masks[mask]["tasks"][task]["predictions"] for head, mask in blocks.items()}
    known = _labels(entry, task)
    golds = [label for label in known if label in counts["combined"]]
    accuracy = {head: masks[mask]["tasks"][task]["scores"]["accuracy"] for head, mask in blocks.items()}
    rows: list[list[Cell]] = []
    shares: list[list[float | None]] = []
    names: list[str] = []
    starts: dict[int, str] = {}
    for head, table in counts.items():
        starts[len(names)] = head
        totals = {gold: sum(table[gold].values()) for gold in golds}
        for said, answers in _answers(table, known):
            counted = [sum(table[gold].get(answer, 0) for answer in answers) for gold in golds]
            rows.append([head, said, *counted])
            names.append(said)
            shares.append([100 * n / totals[gold] for n, gold in zip(counted, golds, strict=True)])
        right = recalls(table)
        rows.append([head, f"recall, % (accuracy {accuracy[head]:.1f} %)", *(right[gold] for gold in golds)])
    title = f"{_title(entry, material)}, {name}"
    return Exhibit(
        f"confusion-{slug(title)}",
        name,
        _confused_say(accuracy, counts, known),
        f"rows of each true label in percent (the table has the counts); {material.way.name}",
        Table(["prompt", "answer", *golds], rows),
        draw.heatmap(
            shares,
            names,
            golds,
            scale=draw.SCORE,
            label="answers, % of each true label",
            decimals=0,
            blocks=starts,
        ),
    )


def _labels(entry: Entry, task: str) -> list[str]:
    """The label strings of a task; of a user's own task those that stand in the results."""
    if task in TASKS:
        return label_texts(TASKS[task], entry.config.label_mode)
    return list(entry.result.tasks[task]["predictions"])


def _answered(table: dict[str, dict[str, int]]) -> dict[str, int]:
    """How often each string was answered, the most frequent first."""
    totals: dict[str, int] = {}
    for answers in table.values():
        for text, count in answers.items():
            totals[text] = totals.get(text, 0) + count
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


def _answers(table: dict[str, dict[str, int]], known: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The rows of a block: what is written, and the answers counted there. Labels, then the most
    frequent other strings, of which as much is written as tells them apart, then the rest of these
    together.
    """
    totals = _answered(table)
    off = [text for text in totals if text not in known]
    often, others = off[:MOST_ANSWERS], off[MOST_ANSWERS:]
    cut = next(n for n in itertools.count(WRITTEN) if len({text[:n] for text in often}) == len(often))
    rows = [(label, [label]) for label in known if label in totals]
    rows += [(f"“{text[:cut]}”", [text]) for text in often]
    return rows + ([(f"{len(others)} others", others)] if others else [])


def _confused_say(
    accuracy: dict[str, float], counts: dict[str, dict[str, dict[str, int]]], known: Sequence[str]
) -> str:
    """What either part answers mostly, and what the two do together."""
    said = []
    for head in ("sources", "private"):
        totals = _answered(counts[head])
        answer = next(iter(totals))
        rows = sum(totals.values())
        off = sum(count for text, count in totals.items() if text not in known)
        foreign = f" ({100 * off / rows:.0f} % off-label)" if 200 * off > rows else ""  # not "0 %"
        verb = "The sources alone answer" if head == "sources" else "the private prompt"
        said.append(f"{verb} “{answer}” to {100 * totals[answer] / rows:.0f} % of the rows{foreign}")
    return (
        f"{', '.join(said)}; accuracy is {accuracy['sources']:.0f} % and {accuracy['private']:.0f} %, together "
        f"{accuracy['combined']:.0f} %."
    )
