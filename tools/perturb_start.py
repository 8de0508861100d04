"""What a change of the start in the twelfth decimal does to a training: how far rounding is a seed.

    python -m tools.perturb_start [--method spp] [--seeds 0,1,2] [--shots 16] [--steps 40] [--shift 1e-12]

The same runs on the embedded suite are trained twice, by transformers' T5 and the reference formula, all in
float64: once from their own start, once with `shift` times a normal number added to each prompt token. Printed
are how far the losses then are apart, relative to their size: the least, the median and the most of all runs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers.models.t5.modeling_t5 import T5LayerNorm

from compt_fast.config.flags import read_flags
from compt_fast.models.engines.reference import ReferenceTrunk
from compt_fast.runs.job import Job, open_job
from compt_fast.training.loop import Trainer
from compt_fast.training.optimizer import FleetAdamW

SHOWN = (1, 5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200)


def _norm(self: Any, x: Tensor) -> Tensor:
    """T5's norm in its input's dtype; transformers' sums squares in fp32 whatever they are."""
    return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


def opened(options: argparse.Namespace) -> Job:
    """The job of the options, its trunk in float64."""
    given = {key: getattr(options, key) for key in ("method", "seeds", "shots")}
    job = open_job(read_flags(given | {"suite": "mini", "engine": "reference", "device": "cpu"}, None))
    assert isinstance(job.trunk, ReferenceTrunk)
    job.trunk.model.double()
    T5LayerNorm.forward = _norm
    return job


def losses(job: Job, steps: int, shift: float) -> Tensor:
    """The losses (steps, runs) of all runs side by side from a start that was moved by `shift`."""
    settings = replace(job.settings, runs_at_once=len(job.runs))
    trainer = Trainer(job.runs, job.trunk, job.trunk_hash, job.data, settings, Path())
    trainer.refill()
    generator = torch.Generator().manual_seed(0)
    for cohort in trainer.cohorts:
        assert cohort.bank is not None
        cohort.bank = cohort.bank.to(torch.float64)
        for name, values in cohort.bank.params.items():
            if name.endswith("_tokens"):
                values.data += shift * torch.randn(values.shape, generator=generator, dtype=torch.float64)
        cohort.optim = FleetAdamW(cohort.bank.params)
    unseen: Any = SimpleNamespace(step=lambda records, speed: None)
    found = [[record["loss"] for record in trainer.train_step(unseen)] for _ in range(steps)]
    return torch.tensor(found, dtype=torch.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("method", "spp"), ("seeds", "0,1,2"), ("shots", "16")):
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--shift", type=float, default=1e-12)
    options = parser.parse_args()
    job = opened(options)
    own, moved = (losses(job, options.steps, shift) for shift in (0.0, options.shift))
    apart = ((moved - own).abs() / own).sort(1).values
    print(f"{len(job.runs)} runs: {', '.join(run.id for run in job.runs)}; start moved by {options.shift:g}")
    print("step   least   median  most")
    for step in (s for s in SHOWN if s <= options.steps):
        row = apart[step - 1]
        print(f"{step:4}   {row[0]:.1e} {row.median():.1e} {row[-1]:.1e}")


if __name__ == "__main__":
    main()
