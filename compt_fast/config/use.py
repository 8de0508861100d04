"""Which of the flags that are given change nothing, so that naming them is a mistake."""

from __future__ import annotations

from collections.abc import Sequence

from compt_fast.config.baselines import METHODS
from compt_fast.config.job import JOB_FLAGS, JobSettings
from compt_fast.config.presets import CHAIN, JOINT, RANDOM, SHARED, SPOT, STORED
from compt_fast.config.run import RUN_FLAGS, RunConfig


def without_use(settings: JobSettings, configs: Sequence[RunConfig]) -> dict[str, str]:
    """The flags that are given and change nothing in any of a job's runs, by key: why, with {} for its methods.

    One that only some of the methods use is fine.
    """
    sweep = settings.sweep
    found = {}
    for key, flag in sorted(RUN_FLAGS.items(), key=lambda item: item[1].field):
        given = sweep.values.get(flag.field, flag.default) != flag.default
        if given and not any(flag.used(METHODS[method]) for method in sweep.methods):
            found[key] = f"--{flag.name} has no meaning for any of the methods trained ({{}})"
    if "sources" in sweep.values and sweep.values.get("source_init") == [STORED]:
        why = "--sources has no meaning with --source-init stored: there is one source a task of --source-tasks"
        found.setdefault("sources", why)
    if sweep.values["distil_temperature"] != [1.0] and not any(config.distil for config in configs):
        why = "--distil-temperature has no meaning without --distil: none of the runs learns from others"
        found.setdefault("distil_temperature", why)
    for key, job_flag in JOB_FLAGS.items():
        if job_flag.of_search and settings.search is None and getattr(settings, job_flag.field) != job_flag.default:
            found[key] = f"--{job_flag.name} has no meaning without --search"
    return found | _without_stored(settings, configs)


def _without_stored(settings: JobSettings, configs: Sequence[RunConfig]) -> dict[str, str]:
    """Of the flags of stored prompts those that are given where no run starts from one, as of `without_use`."""
    inits = {(config.source_init, config.private_init) for config in configs}
    used = {
        "prompts": any(pair != (RANDOM, RANDOM) for pair in inits) or any(config.distils for config in configs),
        "sources": any(source in (STORED, CHAIN, SHARED) or private in (SPOT, JOINT) for source, private in inits),
        "shared": any(source == SHARED for source, _ in inits),
    }
    by = {
        "prompts": "stored prompts, as sil, sip and silp do, or any with --private-init stored or --distil",
        "sources": "prompts of source tasks, as sil, attempt and mpt do, or any with --source-init stored or "
        "--private-init spot or joint",
        "shared": "a shared prompt, as mpt and mpt-m do",
    }
    return {
        key: f"--{flag.name} has no meaning: none of the methods trained ({{}}) starts from {by[kind]}"
        for key, flag in JOB_FLAGS.items()
        if (kind := flag.of_stored) and getattr(settings, flag.field) is not None and not used[kind]
    }
