"""A word on prompts that begin far larger than the trunk's embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest

from compt_fast.runs.scales import note_scales
from tests.helpers.jobs import opened, settings
from tests.helpers.tiny_trunks import make_trunk


def said(capsys: pytest.CaptureFixture[str], trunk: Path, toys: list[Path], **flags: object) -> str:
    job = opened(settings(trunk, toys[:1], **flags))
    note_scales(job.trunk, job.runs)
    return capsys.readouterr().err


def test_both_scales_are_named(tmp_path: Path, toys: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """U(-0.5, 0.5) has the root mean square 0.29; the embeddings are of 0.02, as Llama's."""
    small = make_trunk(tmp_path / "llama", "llama", embedding_scale=0.02)
    text = said(capsys, small, toys, method="pt", encoder="none")
    assert text.count("\n") == 1 and "the prompts of pt-" in text and "begin at a scale of 0.2" in text
    assert f"embeddings of {small} have 0.02" in text and "--init-range 0.03" in text
    for fitting in ({"init": "vocab"}, {"init_range": 0.034}):
        assert said(capsys, small, toys, method="pt", encoder="none", **fitting) == ""
    assert "mst-" in said(capsys, small, toys, method="mst,spp", init_range="0.034,2")


def test_prompts_that_fit_or_depend_on_the_row_or_are_stored(
    tiny_t5: Path, toys: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, tiny_t5, toys, method="pt,spp,scp") == ""
    assert said(capsys, tiny_t5, toys, method="spp", gates="input", init_range=90) == ""
    assert "begin at a scale of" in said(capsys, tiny_t5, toys, method="pt", init_range=90)
