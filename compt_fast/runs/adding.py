"""Further runs of a job that is going: planned and checked as those that it began with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from compt_fast.baselines.making import counted
from compt_fast.config.job import Sweep
from compt_fast.runs.initialisation import Initialisation
from compt_fast.runs.job import Job, check_runs
from compt_fast.training.plan import Run, plan_runs


@dataclass(frozen=True)
class Adding:
    """Plans runs beside those of a `job`, which start from what `initialisation` reads."""

    job: Job
    initialisation: Initialisation

    def plan(self, sweep: Sweep, named: Collection[str], known: Sequence[Run], task: str | None = None) -> list[Run]:
        """The runs of a `sweep` on the job's tasks that are none of the `known`, for `Trainer.add`; of those that are
        trained apart only that of a `task`, where one is named.

        An id names the `named` settings, by their fields, and those that vary in the job, beside what every id has;
        where another run has it already, a number is put behind it.

        Raises `InputError` for runs that the job cannot train, and where they start from stored prompts that the store
        lacks: a job that is going trains no stage one.
        """
        job = self.job
        settings = replace(job.settings, sweep=sweep)
        tasks = [data.task.name for data in job.data.tasks]
        named = {*named, *(name for name, values in job.settings.sweep.values.items() if len(values) > 1)}
        configs, taken = {run.config for run in known}, {run.id for run in known}
        found = []
        for run in plan_runs(settings, tasks=tasks, d_model=job.trunk.d_model, named=named):
            if run.config not in configs and task in (None, run.config.task):
                found.append(replace(run, id=free_id(run.id, taken)))
                taken.add(found[-1].id)
        return self.checked(found)

    def checked(self, runs: Sequence[Run]) -> list[Run]:
        """Runs for `Trainer.add`, which start from prompts that are there; raises `InputError` as `plan` does."""
        job = self.job
        found = counted(runs, job.trunk, job.settings.engine)
        check_runs(found, job.settings, job.trunk, job.data)
        self.initialisation.extend(found)
        return found


def free_id(name: str, taken: Collection[str]) -> str:
    """`name`, or with the first number behind it that makes it none of `taken`."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free
