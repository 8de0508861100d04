"""Ablations by masking, which both papers report: what a run scores with some prompts switched off.

They are kept in a run folder's `masked.json`:

    {"format": 1, "how": "before", "runs": {"<run-id>": {"<mask>": {"tasks": {...}, "average": 61.3}}}}

with the tasks as in `results.json`. Masked prompts leave the candidate set before the router
normalises, so that the weights of the others grow.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from compt_fast.errors import InputError, shown
from compt_fast.files import write_json
from compt_fast.fleet.evaluation import average
from compt_fast.fleet.reopened import Reopened
from compt_fast.fleet.results import check_scores
from compt_fast.inputs import check_type, read_object
from compt_fast.prompts.routing import Mask
from compt_fast.prompts.shape import PromptShape

FORMAT = 1


def named_masks(shape: PromptShape, which: str = "each") -> dict[str, Mask | None]:
    """The masks of a run's prompts by name, none twice; `total` masks nothing (None).

    `each`: every source alone (`source-1`, ...), all `sources`, the `private` prompt alone, `total`.
    `subsets`: every subset of the sources besides (`source-1+3`), and with the private prompt
    (`private+source-1+3`).
    """
    n = shape.sources
    sizes = {1, n} if which == "each" else set(range(1, n + 1))
    subsets = [s for size in sorted(sizes) for s in itertools.combinations(range(n), size) if s]
    private_too = [True] if shape.private and which == "subsets" else []
    named: dict[str, Mask | None] = {}
    for private, subset in itertools.product([False, *private_too], subsets):
        if len(subset) == n and private == shape.private:
            continue  # that is `total`
        name = "source-" + "+".join(str(i + 1) for i in subset)
        if len(subset) == n > 1:
            name = "sources"
        on = tuple(i in subset for i in range(n))
        named[f"private+{name}" if private else name] = Mask(on, private=private)
    if shape.private and n:
        named["private"] = Mask((False,) * n)
    return named | {"total": None}


def masked_scores(
    reopened: Reopened, runs: Iterable[str], which: str, *, after_each: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """What `runs` score under each of their masks: the content of `masked.json`."""
    scores: dict[str, Any] = {}
    for name in runs:
        scores[name] = {}
        for mask_name, mask in named_masks(reopened.run(name).shape, which).items():
            tasks = reopened.score(name, mask)
            scores[name][mask_name] = {"tasks": tasks, "average": average(tasks)}
            after_each()
    return {"format": FORMAT, "how": "before", "runs": scores}


def write_masked(folder: Path, content: dict[str, Any]) -> None:
    """Add `content` to the folder's `masked.json`, in the place of what stands there of its runs."""
    before = read_masked(folder)
    write_json(folder / "masked.json", content | {"runs": (before["runs"] if before else {}) | content["runs"]})


def read_masked(folder: Path) -> dict[str, Any] | None:
    """The folder's `masked.json`, None where there is none; `InputError` for a damaged one."""
    path = folder / "masked.json"
    if not path.is_file():
        return None
    content = read_object(path, "the masked scores of a run folder")
    if content.get("format") != FORMAT:
        raise InputError(f"{path}: masked scores of format {shown(content.get('format'))}, not {FORMAT}")
    check_type(content.get("runs"), dict, f"{path}: runs")
    for run, masks in content["runs"].items():
        check_type(masks, dict, f"{path}: {run}")
        for mask, scored in masks.items():
            where = f"{path}: {run}: {mask}"
            check_type(scored, dict, where)
            check_scores(scored.get("tasks"), where)
            check_type(scored.get("average"), float, f"{where}: average")
    return content
