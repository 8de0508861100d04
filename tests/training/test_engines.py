"""The engines train the same small fleet to the same place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compt_fast import native
from compt_fast.training.loop import Trainer
from tests.helpers import jobs


def trained(engine: str, trunk: Path, folder: Path) -> tuple[Trainer, Path]:
    task_files = [jobs.toy_task(folder / "tasks", "toy_a"), jobs.toy_task(folder / "tasks", "toy_b")]
    chosen = jobs.settings(
        trunk,
        task_files,
        engine=engine,
        method="spp,pt-joint,scp",
        seeds="0,1",
        steps=8,
        batch_size=6,
        scoring="generate",
    )
    job = jobs.opened(chosen)
    return jobs.train(job, job.runs, folder / engine), folder / engine


@pytest.mark.parametrize("extension", [True, False], ids=["as it is here", "without the extension"])
def test_fast_and_reference_train_the_same_fleet_to_the_same_place(
    extension: bool, tiny_t5: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not extension:
        monkeypatch.setattr(native, "load", lambda: False)
    (fast, mine), (reference, theirs) = (trained(name, tiny_t5, tmp_path) for name in ("fast", "reference"))
    assert type(fast.trunk) is not type(reference.trunk)
    assert fast.trunk_hash == reference.trunk_hash
    for run in fast.runs:
        own, wanted = (torch.tensor(jobs.losses(folder, run.id)) for folder in (mine, theirs))
        assert len(own) == 8 and float(own[0] - own[-1]) > 0.05
        torch.testing.assert_close(own, wanted, rtol=1e-3, atol=1e-4)
    for run, tensors in jobs.prompts(theirs).items():
        for name, wanted in tensors.items():
            torch.testing.assert_close(jobs.prompts(mine)[run][name], wanted, rtol=1e-2, atol=1e-3)
