"""Run folders that nobody trained: planned runs with made-up scores and freshly drawn prompts."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compt_fast.config.flags import merge_flags
from compt_fast.config.run import RunConfig
from compt_fast.evaluation.evaluator import average
from compt_fast.prompts.artifact import About, RunPrompts, TrunkId, save_prompts
from compt_fast.prompts.compose import compose
from compt_fast.prompts.parameters import PromptBank
from compt_fast.runs.masking import Way, named_masks, write_masked
from compt_fast.tasks.chosen import resolve_tasks
from compt_fast.tasks.metrics import confusion, score
from compt_fast.tasks.table import Task
from compt_fast.tasks.text import label_text, label_texts
from compt_fast.training.plan import Run, plan_runs
from compt_fast.training.results import RunResult, write_results

D_MODEL = 8
ROWS = 40
Odds = Callable[[RunConfig, str], float]


def made_run(
    folder: Path, odds: Odds = lambda config, task: 0.7, *, masked: bool = True, **given: str
) -> tuple[Path, list[Run]]:
    """Write a run folder of the flags `given`; its runs answer a row rightly with `odds(config, task)`.

    With `masked` it holds a `masked.json` too, in which odds fall to a half. With `select` "best" runs have development
    scores, in the order opposite to that of the test.
    """
    settings = merge_flags(given, {}, "test")
    tasks = resolve_tasks(settings.suite, settings.tasks, settings.include, settings.exclude, [])
    names = [task.name for task in tasks]
    runs = plan_runs(settings, tasks=names, d_model=D_MODEL)
    folder.mkdir(parents=True)
    config = {
        "format": 1,
        "command": ["compt-fast", "train"],
        "flags": settings.to_json(),
        "trunk": {"name": "mini", "sha256": "0" * 64},
        "runs": {run.id: asdict(run.config) for run in runs},
        "environment": {},
    }
    (folder / "config.json").write_text(json.dumps(config))
    results = []
    for run in runs:
        of = [task for task in tasks if run.config.task in (None, task.name)]
        own = {task.name: answered(task, run, odds(run.config, task.name)) for task in of}
        chosen = {"average": 100 - average(own), "step": 3, "tasks": {}} if settings.select == "best" else None
        results.append(RunResult.finished(run, own, average(own), chosen))
        definitions = {task.name: task for task in of}
        about = About("run", run.id, tuple(own), TrunkId("mini", "0" * 64), definitions=definitions)
        save_prompts(folder / "prompts" / run.id, drawn(run), about)
        if masked:
            masks = {}
            for mask in named_masks(run.shape):
                part = 1.0 if mask == "total" else 0.5
                scored = {t.name: answered(t, run, part * odds(run.config, t.name), mask) for t in of}
                scored = own if mask == "total" else scored
                masks[mask] = {"tasks": scored, "average": average(scored)}
            write_masked(folder, Way(), {run.id: masks})
    write_results(folder, results, 1.0)
    return folder, runs


def drawn(run: Run) -> RunPrompts:
    """The prompts that a run starts from."""
    bank = PromptBank.create(run.shape, [run.config.seed])
    return RunPrompts.of(run.shape, compose(bank.params, run.shape), bank.params)


def answered(task: Task, run: Run, odds: float, mask: str = "") -> dict[str, Any]:
    """A task's entry in `results.json`: some rows right, the others wrong or off-label."""
    rng = random.Random(f"{run.id} {task.name} {mask}")
    mode = run.config.label_mode
    labels = label_texts(task, mode)
    golds: list[int | float] = [i % 6 * 1.0 if task.is_score else i % len(labels) for i in range(ROWS)]
    texts = [
        label_text(task, gold, mode) if rng.random() < odds else rng.choice([*labels, "some <b>words</b> | more"])
        for gold in golds
    ]
    return {
        "primary": task.primary,
        "scores": score(task, golds, texts, mode),
        "n": ROWS,
        "predictions": confusion(task, golds, texts, mode),
    }
