"""What the manifest of a run's prompts says of the job that trained them."""

from __future__ import annotations

from compt_fast.config.job import JobSettings
from compt_fast.config.presets import CHAIN, STORED
from compt_fast.models.api import Trunk
from compt_fast.prompts.artifact import About, TextFormat, TrunkId
from compt_fast.tasks.examples import JobData
from compt_fast.training.plan import Run, run_sources


def about_run(run: Run, settings: JobSettings, data: JobData, trunk: Trunk, trunk_hash: str) -> About:
    """Of a run of a job with these settings and data, over a trunk of this fingerprint."""
    tasks = tuple(data.names(run.config))
    return About(
        kind="run",
        name=run.id,
        tasks=tasks,
        trunk=TrunkId(trunk.name, trunk_hash, settings.dtype, trunk.family),
        text=TextFormat(
            prefix=settings.prefix,
            prompt_position=settings.prompt_position,
            max_source_length=settings.max_source_length,
            label_mode=run.config.label_mode,
        ),
        definitions={of.task.name: of.task for of in data.tasks if of.task.name in tasks},
        source_tasks=_source_tasks(run, settings, data),
        training={"config": run.config.to_json()},
    )


def _source_tasks(run: Run, settings: JobSettings, data: JobData) -> tuple[str, ...] | None:
    """The task of each source prompt, where each started from a stored one."""
    if run.config.source_init not in (STORED, CHAIN):
        return None
    return tuple(run_sources(settings, [of.task.name for of in data.tasks], run.config))
