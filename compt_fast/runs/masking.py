"""Ablations by masking, which both papers report: what a run scores with some prompts switched off.

They are kept in a run folder's `masked.json`:

    {"format": 2, "ways": [{"how": "before", "tokens": "zero", "runs": {
        "<run-id>": {"<mask>": {"tasks": {...}, "average": 61.3}}}}]}

with the tasks as in `results.json`, and the scores of each way to mask (`Way`) apart from the others'.
A file of format 1 holds those of the default way alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from compt_fast.evaluation.evaluator import average, scored
from compt_fast.prompts.routing import Mask, check_masking
from compt_fast.prompts.shape import PromptShape
from compt_fast.runs.loaded import LoadedJob
from compt_fast.runs.results import check_scores
from compt_fast.utils.errors import InputError, shown
from compt_fast.utils.files import write_json
from compt_fast.utils.inputs import check_type, dataclass_from, read_object

FORMAT = 2
Scores = dict[str, dict[str, Any]]
"""By run and by the name of a mask: `tasks` as in `results.json`, and their `average`."""


@dataclass(frozen=True)
class Way:
    """What masking does to weights and tokens: the fields of `Mask` of these names."""

    how: str = "before"
    tokens: str = "zero"

    def __post_init__(self) -> None:
        check_masking(self.how, self.tokens)

    @property
    def name(self) -> str:
        """The two words for it, as a caption has them."""
        return f"masked {self.how} normalisation" + (", masked halves removed" if self.tokens == "remove" else "")

    @property
    def says(self) -> str:
        """What it does, in words."""
        weights = (
            "masked sources leave the set before the router normalises, so that the weights of the rest grow (a source "
            "alone gets weight 1 of a softmax)"
            if self.how == "before"
            else "masked sources have weight 0 after the router normalised, and the rest keep their weights"
        )
        zeros = "stays as tokens of zeros" if self.tokens == "zero" else "is removed with its tokens"
        return f"{weights}; a masked half of an scp prompt {zeros}"


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
    loaded: LoadedJob,
    runs: Iterable[str],
    which: str,
    way: Way,
    *,
    after_each: Callable[[], None] = lambda: None,
) -> Scores:
    """What `runs` score under each of their masks, masked in one `way`."""
    scores: Scores = {name: {} for name in runs}
    masks = [(name, *named) for name in scores for named in named_masks(loaded.run(name).shape, which).items()]
    found = loaded.predict((name, mask and replace(mask, **asdict(way))) for name, _, mask in masks)
    for (name, mask_name, _), (asked, predicted) in zip(masks, found, strict=True):
        tasks = scored(asked.sets, predicted, asked.mode)
        scores[name][mask_name] = {"tasks": tasks, "average": average(tasks)}
        after_each()
    return scores


def write_masked(folder: Path, way: Way, scores: Scores) -> None:
    """Add the scores of one way to the folder's `masked.json`, in the place of what stands there of their runs."""
    ways = read_masked(folder)
    ways[way] = ways.get(way, {}) | scores
    listed = [{**asdict(own), "runs": runs} for own, runs in ways.items()]
    write_json(folder / "masked.json", {"format": FORMAT, "ways": listed})


def read_masked(folder: Path) -> dict[Way, Scores]:
    """The folder's `masked.json`, nothing where there is none; `InputError` for a damaged one."""
    path = folder / "masked.json"
    if not path.is_file():
        return {}
    content = read_object(path, "the masked scores of a run folder")
    known = content.get("format")
    if known not in (1, FORMAT):
        raise InputError(f"{path}: masked scores of format {shown(known)}, not {FORMAT}")
    listed: Any = [{**asdict(Way()), "runs": content.get("runs")}] if known == 1 else content.get("ways")
    check_type(listed, list, f"{path}: ways")
    ways = {}
    for number, own in enumerate(listed, start=1):
        where = f"{path}: way {number}"
        check_type(own, dict, where)
        way = dataclass_from(Way, {key: value for key, value in own.items() if key != "runs"}, where)
        ways[way] = _checked(own.get("runs"), path)
    return ways


def _checked(runs: Any, path: Path) -> Scores:
    """The scores of runs under masks, as they stand in a file; `InputError` for anything else."""
    check_type(runs, dict, f"{path}: runs")
    for run, masks in runs.items():
        check_type(masks, dict, f"{path}: {run}")
        for mask, entry in masks.items():
            where = f"{path}: {run}: {mask}"
            check_type(entry, dict, where)
            check_scores(entry.get("tasks"), where)
            check_type(entry.get("average"), float, f"{where}: average")
    return dict(runs)
