"""What MPT's targets start from (arXiv 2303.02861, section 3.3): a prompt that source tasks share, their mean factors.

A run of `mpt-source` has trained both; a job that is given none trains one first, in its own folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from torch import Tensor

from compt_fast.config.presets import SHARED
from compt_fast.prompts.artifact import About, RunPrompts, TextFormat, TrunkId, check_trunk, load_prompts
from compt_fast.prompts.compositions.factored import FACTORS
from compt_fast.prompts.store import PromptStore
from compt_fast.prompts.tensors import sha256_of
from compt_fast.runs.folder import SHARING
from compt_fast.runs.initialisation import stage_one_draw
from compt_fast.runs.job import Job, fingerprint_of, open_job
from compt_fast.runs.stage_one import SourceKind, folder_of, settings_of_sources
from compt_fast.tasks.sampling import Draw
from compt_fast.training.plan import Run, sources_of
from compt_fast.utils.errors import InputError

METHOD = "mpt-source"


class SharedPrompts:
    """The shared prompts that some `runs` of a job start from, one a prompt length and label mode.

    `jobs` are those that train them first, by kind, each with its run folder; none where the settings name one.
    """

    def __init__(self, folder: Path, job: Job, store: PromptStore, runs: Sequence[Run]) -> None:
        """Raises `InputError` for a prompt that is named and cannot be started from, and for whatever is wrong with
        the source tasks.
        """
        self._job = job
        self._kinds = list(dict.fromkeys(_kind(run) for run in runs if run.config.source_init == SHARED))
        self.jobs: dict[SourceKind, tuple[Path, Job]] = {}
        if job.settings.shared_from is not None:
            for kind in self._kinds:
                self._load(kind)  # for its checks
            return
        tasks = sources_of(job.settings, [data.task.name for data in job.data.tasks])
        defined = job.memory.defined if job.memory else ()
        for kind in self._kinds:
            settings = settings_of_sources(job.settings, METHOD, kind, tasks, defined)
            fit = job.settings.fit_length  # of its teachers
            settings = replace(settings, store=str(store.folder.absolute()), fit_length=fit)
            own = folder_of(folder, SHARING, kind, settings)
            self.jobs[kind] = own, open_job(settings, folder=own, trunk=job.trunk, memory=job.memory)

    def check(self, runs: Sequence[Run]) -> None:
        """Raise `InputError` for one of further `runs` that starts from a shared prompt which is not there."""
        for run in runs:
            if run.config.source_init == SHARED and _kind(run) not in self._kinds:
                raise InputError(
                    f"{run.id}: no shared prompt of {run.config.prompt_length} tokens was trained before the job, and "
                    "none is while it goes: train this run in a folder of its own"
                )

    def of(self, run: Run) -> dict[str, Tensor]:
        """The parameters of a run that start from them, fp32 on the CPU: the shared prompt `source_tokens` (1, m, d)
        and, for each of its tasks, the mean of the source tasks' factors.
        """
        if run.config.source_init != SHARED:
            return {}
        prompts, _ = self._load(_kind(run))
        means = {name: prompts.tensors[f"param.{name}"].mean(0, keepdim=True) for name in FACTORS}
        tasks = run.shape.tasks
        return {"source_tokens": prompts.tensors["sources"]} | {name: t.expand(tasks, -1) for name, t in means.items()}

    def used(self) -> dict[str, str]:
        """The hash of each, by the run that trained it, behind the folder of its job where that is of this one; all are
        there.
        """
        loaded = {kind: self._load(kind) for kind in self._kinds}
        places = {kind: f"{own.name}/" for kind, (own, _) in self.jobs.items()}
        return {
            places.get(kind, "") + about.name: sha256_of(prompts.tensors) for kind, (prompts, about) in loaded.items()
        }

    def seen(self, run: Run) -> dict[str, list[Draw]]:
        """By task of the run: the draws of its training rows that its shared prompt was, or will be, trained on; of one
        that was trained elsewhere only what its manifest says.
        """
        if run.config.source_init != SHARED:
            return {}
        if self.jobs:
            job = self.jobs[_kind(run)][1]
            tasks, draw = [data.task.name for data in job.data.tasks], stage_one_draw(self._job.settings)
        else:
            about = self._load(_kind(run))[1]
            config = about.training.get("config", {})
            drawn = {field.name: config[field.name] for field in fields(Draw) if field.name in config}
            if len(drawn) < len(fields(Draw)):
                return {}
            tasks, draw = list(about.tasks), Draw(**drawn)
        return {task: [draw] for task in self._job.data.names(run.config) if task in tasks}

    def _load(self, kind: SourceKind) -> tuple[RunPrompts, About]:
        length, mode = kind
        named = self._job.settings.shared_from
        if named is None:
            own, job = self.jobs[kind]
            folder = own / "prompts" / job.runs[0].id
        else:
            folder = Path(named)
        prompts, about = load_prompts(folder)
        shape = prompts.shape
        if "sources" not in prompts.tensors or any(f"param.{name}" not in prompts.tensors for name in FACTORS):
            raise InputError(
                f"{folder}: the prompts of {about.name} share none that is scaled for each task; --shared-from takes "
                f"those of a run of {METHOD}"
            )
        if shape.length != length:
            raise InputError(
                f"{folder}: its shared prompt has {shape.length} tokens and {length} are needed: say --prompt-length "
                f"{shape.length}"
            )
        self._check_origin(folder, prompts, about, mode)
        return prompts, about

    def _check_origin(self, folder: Path, prompts: RunPrompts, about: About, mode: str) -> None:
        trunk, settings = self._job.trunk, self._job.settings
        dtype = about.trunk.dtype or settings.dtype
        same = self._job.trunk_hash if dtype == settings.dtype else fingerprint_of(replace(settings, dtype=dtype))
        check_trunk(str(folder), about.trunk, prompts.shape.d_model, TrunkId(trunk.name, same, dtype), trunk.d_model)
        own = TextFormat(settings.prefix, settings.prompt_position, label_mode=mode)
        if not about.text.agrees(own):
            raise InputError(f"{folder}: it was trained on other texts ({about.text}) than the job's ({own})")


def _kind(run: Run) -> SourceKind:
    return run.config.prompt_length, run.config.label_mode
