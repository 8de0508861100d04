"""A run folder's job, loaded to score its stored prompts: whole, or with some switched off."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from compt_fast.config.choices import INT8
from compt_fast.config.flags import read_flags
from compt_fast.evaluation.evaluator import Predicted, predict
from compt_fast.evaluation.passes import Asked
from compt_fast.prompts.artifact import RunPrompts, TrunkId, check_trunk, load_prompts
from compt_fast.prompts.routing import Mask
from compt_fast.runs.folder import check_run_folder
from compt_fast.runs.job import Job, fingerprint_of, open_job
from compt_fast.runs.results import read_results
from compt_fast.tasks.examples import ScoredRows
from compt_fast.tasks.loaders import load_scored
from compt_fast.training.plan import Run
from compt_fast.utils.errors import InputError, unknown


@dataclass(frozen=True)
class LoadedJob:
    """The job of a run folder, its rows to score on, and the fingerprint that the trunk has in the
    precision that the prompts were trained with.
    """

    folder: Path
    job: Job
    trained_on: str
    sets: list[ScoredRows]

    def run(self, name: str) -> Run:
        """A run of the folder's plan; `InputError` if there is none of that id."""
        run = next((run for run in self.job.runs if run.id == name), None)
        if run is None:
            raise InputError(f"{self.folder / 'prompts' / name}: the config.json of the run folder plans no such run")
        return run

    def prompts(self, name: str) -> RunPrompts:
        """The stored prompts of a run.

        Raises `InputError` where they are damaged, of another trunk, or of other tasks than the
        folder's `config.json` says.
        """
        folder = self.folder / "prompts" / name
        prompts, about = load_prompts(folder)
        trunk = self.job.trunk
        known = TrunkId(trunk.name, self.trained_on, family=trunk.family)
        check_trunk(str(folder), about.trunk, prompts.shape.d_model, known, trunk.d_model)
        names = self.job.data.names(self.run(name).config)
        if list(about.tasks) != names or prompts.shape.tasks != len(names):
            found = ", ".join(about.tasks or ["(none)"])
            raise InputError(
                f"{folder}: prompts of the tasks {found}, but those of the run folder's config.json are "
                f"{', '.join(names)}"
            )
        return prompts

    def rows(self, name: str) -> list[ScoredRows]:
        """The rows of a run's tasks, in the order of its slots; none for a task that is not to be scored."""
        own = self.job.data.names(self.run(name).config)
        return [rows for rows in self.sets if rows.task.name in own]

    def predict(self, wanted: Iterable[tuple[str, Mask | None]]) -> Iterator[tuple[Asked, Predicted]]:
        """What runs predict for their `rows`, each by its name: whole, or with what a mask leaves on."""
        return predict(
            self.job.data,
            (self._asked(name, mask) for name, mask in wanted),
            scoring=self.job.settings.scoring,
            batch_size=self.job.settings.eval_batch_size,
        )

    def _asked(self, name: str, mask: Mask | None) -> Asked:
        run, prompts = self.run(name), self.prompts(name)
        own = prompts if mask is None else prompts.masked(mask)
        return Asked(self.job.trunk, own, self.rows(name), run.config.label_mode)


def load_job(folder: Path, given: dict[str, Any]) -> LoadedJob:
    """Open the job of a run folder with the flags `given` (texts, or None) in place of its own.

    Of a `data` that is given, a folder or one task's file, all rows are scored unless `eval_size` is given too; a
    task that the folder does not hold has none. Raises `InputError` for another folder and for whatever is wrong with
    data and trunk.
    """
    path = check_run_folder(folder)
    own, settings = read_flags({}, str(path)), read_flags(given, str(path))
    if given.get("data") or given.get("data_root"):  # one replaces the other
        data = settings.data if given.get("data") else None
        root = settings.data_root if given.get("data_root") else None
        settings = replace(settings, data=data, data_root=root)
    load = None
    if settings.data and given.get("data"):
        load = partial(load_scored, place=Path(settings.data), skip_empty=settings.skip_empty)
        settings = replace(settings, eval_size=settings.eval_size if given.get("eval_size") else sys.maxsize)
    job = open_job(settings, folder=folder, load=load, made_of=own.dtype)
    same = job.settings.dtype in (own.dtype, INT8)
    trained_on = job.trunk_hash if same else fingerprint_of(replace(own, device=job.settings.device))
    return LoadedJob(folder, job, trained_on, job.data.evaluation())


def stored_runs(folder: Path, only: list[str] | None = None) -> list[str]:
    """The runs of a folder that have finished and have stored prompts, or those that `only` names, which may have been
    stopped midway; without a finished one all that have prompts.

    Raises `InputError` where there are none, and for a name that is none of them.
    """
    results = read_results(folder)
    stored = [one.id for one in results if (folder / "prompts" / one.id / "manifest.json").is_file()]
    named = set(only or ())
    for one in results:
        asked = named & {one.id, *(one.id.removesuffix(f"-{task}") for task in one.tasks)}
        if not one.has_prompts and (asked or not any(other.has_prompts for other in results)):
            raise InputError(
                f"{folder}: {one.id} is a baseline, which trains weights and leaves no prompts to score or predict "
                "with: its scores stand in results.json, and report compares them"
            )
    if not stored:
        raise InputError(f"{folder}/prompts: no stored prompts yet; a run's are written when it ends")
    for name in only or []:
        if name not in stored:
            raise unknown("run", name, stored)
    finished = [one.id for one in results if one.status == "finished" and one.id in set(stored)]
    return only or finished or stored
