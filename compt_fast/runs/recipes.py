"""Configuration files of `compt_fast.train` that hold several jobs, and what they mean on the embedded suites.

Beside flags a TOML or YAML file may hold `jobs`, a table a job with the flags in which it differs, and `mini`, flags
that `--mini` sets besides. The project's folder `recipes/` has such a file for each table and figure of both papers.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from compt_fast.config.flags import FLAGS, check_settings, excluded, merge_flags, parse, read_file
from compt_fast.config.job import JOB_FLAGS, JobSettings
from compt_fast.config.resolve import resolve
from compt_fast.config.use import without_use
from compt_fast.tasks.chosen import resolve_tasks
from compt_fast.tasks.table import EMBEDDED
from compt_fast.utils.errors import InputError, shown, unknown
from compt_fast.utils.output import complain
from compt_fast.utils.words import listed, plural

Table = dict[str, Any]
"""What stands in a file, unread: values by the keys of flags."""

_JOB = re.compile(r"[A-Za-z0-9_-]{1,100}")


def read_jobs(config: str | None, mini: bool) -> dict[str, Table]:
    """The settings of each job of a configuration file by name; a file of one job has the name "".

    With `mini` they are those of the embedded trunk and suites. Raises `InputError` for a file that
    is missing or malformed, for keys that are no flags, and for tasks that have no embedded kind.
    """
    if config is None:
        if mini:
            raise InputError("--mini turns the suites of a --config file into the embedded ones: give it one")
        return {"": {}}
    path = Path(config)
    content = read_file(path)
    small, jobs = _table(content, "mini", path), _table(content, "jobs", path)
    common = check_settings(content, config)
    also = check_settings(small, f"{config}: mini") if mini else {}
    made = {}
    for name, own in {str(name): own for name, own in jobs.items()}.items() or {"": {}}.items():
        where = f"{config}: jobs.{name}"
        if not isinstance(own, dict):
            raise InputError(f"{where} must be a table of flags, not {shown(own)}")
        if jobs and not _JOB.fullmatch(name):
            raise InputError(f"{where}: the name becomes a folder's; take up to 100 ASCII letters, digits, - and _")
        table = common | check_settings(own, where)
        made[name] = (embedded(table, config) | also) if mini else table
    return made


def _table(content: Table, key: str, path: Path) -> Table:
    """The table `key` of a file's content, taken out of it."""
    table = content.pop(key, {})
    if not isinstance(table, dict):
        raise InputError(f"{path}: {key} must be a table, not {shown(table)}")
    return table


def embedded(table: Table, where: str) -> Table:
    """Settings with the embedded trunk, and every suite and task replaced by the embedded one of its kind.

    The suite `crosspt-set2` loses `stsb2`, which has none. Raises `InputError` that names a task
    without an embedded kind.
    """
    made = table | {"model": "mini", "data": None, "data_root": None}
    if table.get("suite") is not None:
        suite = parse("suite", table["suite"], f"{where}: suite")
        made["suite"] = EMBEDDED.get(suite, suite)
    for key, flag in JOB_FLAGS.items():
        if flag.names_tasks and table.get(key):
            names = parse(key, table[key], f"{where}: {key}")
            made[key] = [_kind(name, f"{where}: {key}") for name in names]
    return made


def _kind(name: str, where: str) -> str:
    """The embedded suite or task of the kind of `name`."""
    if name not in EMBEDDED:
        raise InputError(f"{where}: {name!r} has no embedded kind; --mini cannot take it")
    return EMBEDDED[name]


def settings_of(
    given: dict[str, Any], config: str | None, mini: bool, only: str | None = None
) -> dict[str, JobSettings]:
    """The checked settings of every job of a command line, or of those of the comma list `only`, by name; those of a
    file with jobs get a folder each in `--out`.

    What of the line some of several jobs have no use for is left out of theirs, and a line on standard error says so.
    Raises `InputError` as `read_jobs` and `merge_flags` do, for a flag of the line that no job has a use for, and for
    a name in `only` that is no job's.
    """
    files = _chosen(read_jobs(config, mini), only, config)
    for own in files.values():
        for key in excluded(given):
            own.pop(key, None)  # the command line comes first
    jobs = {name: merge_flags(given, own, str(config)) for name, own in files.items()}
    if config is not None and "" not in jobs:
        stem = f"runs/{Path(config).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
        for name, idle in _idle(jobs, given, config).items():
            job = merge_flags({key: value for key, value in given.items() if key not in idle}, files[name], config)
            jobs[name] = replace(job, out=str(Path(job.out or stem) / name))
    return jobs


def _chosen(files: dict[str, Table], only: str | None, config: str | None) -> dict[str, Table]:
    """The jobs of a file that `only` names, in the file's order; all without it."""
    if only is None:
        return files
    if "" in files:
        raise InputError("--jobs takes some of the jobs of a --config file, and there are none: leave it out")
    for name in (names := only.split(",")):
        if name not in files:
            raise unknown(f"job of {config}", name, files)
    return {name: own for name, own in files.items() if name in names}


def check_rows(jobs: dict[str, JobSettings]) -> None:
    """Raise `InputError` that names the job where rows of some job are missing or wrong, before any of them begins."""
    from compt_fast.tasks.loaders import load_task  # late, as all that takes a while to import

    read = set()
    for name, job in jobs.items():
        files = [Path(file) for file in job.task_file]
        root, data = (Path(place) if place else None for place in (job.data_root, job.data))
        for task in resolve_tasks(job.suite, job.tasks, job.include, job.exclude, files):
            which = (task.name, root, data, *files)
            try:
                if which not in read:
                    load_task(task, data_root=root, data=data, skip_empty=job.skip_empty)
            except InputError as error:
                raise InputError(f"job {name}: {error} (--jobs takes other jobs alone)") from None
            read.add(which)


def _idle(jobs: dict[str, JobSettings], given: dict[str, Any], config: str) -> dict[str, set[str]]:
    """The keys of the flags that are `given` and change nothing in a job, of each job.

    Raises `InputError` for one that changes nothing in any.
    """
    whys = {}
    for name, job in jobs.items():
        # tasks and width of the trunk, which are not known yet, have no say in it
        configs = [resolve(choice, tasks=1, d_model=1) for choice in job.sweep.choices()]
        whys[name] = without_use(job, configs)
    for key in [key for key, value in given.items() if value is not None]:
        using = [name for name, why in whys.items() if key not in why]
        if not using:
            methods = ", ".join(dict.fromkeys(method for job in jobs.values() for method in job.sweep.methods))
            why = next(iter(whys.values()))[key].format(methods)
            raise InputError(f"{config}: none of its {plural(len(jobs), 'job')} has a use for a flag: {why}")
        if len(using) < len(jobs):
            complain(
                f"note: --{FLAGS[key].name} is for {listed(using)}; no other of the {len(jobs)} jobs has a use for it"
            )
    return {name: given.keys() & why.keys() for name, why in whys.items()}
