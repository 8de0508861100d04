"""A job in its stages."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from compt_fast.config.flags import read_flags
from compt_fast.runs.pipeline import conduct, prepare
from tests.helpers import jobs


def test_a_job_is_prepared_without_a_trace_conducted_and_done(tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    chosen = jobs.settings(tiny_t5, toys[:2], method="sil,pt-joint", steps=2, source_steps=1, source_examples=4)
    settings, folder = read_flags(chosen, None), tmp_path / "run"
    pipeline = prepare(folder, settings, writing=True)
    assert not folder.exists() and pipeline.stage_two.saved is None
    assert [stage.trainer.folder for stage in pipeline.stage_one] == [folder / "sources-m2"]
    assert conduct(pipeline, ["compt-fast", "train"], Console(quiet=True)) == 0
    assert pipeline.store.names() == ["toy_a-m2", "toy_b-m2"]
    again = prepare(folder, settings, writing=True)
    assert not again.stage_one and again.stage_two.saved is not None
    assert [result.status for result in again.stage_two.trainer.ended] == ["finished"] * 2
