"""What baselines of a job train in: a copy of its trunk a run."""

from __future__ import annotations

from dataclasses import replace

from compt_fast.baselines.cohort import TunedCohort
from compt_fast.baselines.making import ENGINE, tuned_trunk
from compt_fast.runs.job import Job, named_trunk
from compt_fast.training.cohort import Cohort
from compt_fast.training.plan import Run
from compt_fast.utils.errors import InputError


def alone(job: Job, run: Run) -> Cohort:
    """The cohort of a baseline's run, over a copy of the job's trunk that no other run sees.

    Raises `InputError` where the checkpoint is not any more what the job began with.
    """
    fresh = named_trunk(replace(job.settings, engine=ENGINE))
    if fresh.fingerprint() != job.trunk_hash:
        raise InputError(f"{job.settings.model}: its weights have changed since the job was opened; put them back")
    return TunedCohort(run, tuned_trunk(fresh, run))
