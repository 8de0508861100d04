"""How a line asks for a cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compt_fast import train
from compt_fast.scaling.cluster import Spread, _no_gpu
from compt_fast.utils.errors import InputError
from tests.helpers.jobs import error_of


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (["--trainers=2"], "--trainers needs --ray: without it this process trains"),
        (["--trainer-cpus=2"], "--trainer-cpus needs --ray"),
        (["--ray", "--search=recipes/spaces/spp.toml"], "--search asks for its trials in the process that trains them"),
        (["--ray", "--trainers=0"], "--trainers must be above 0, not 0"),
        (["--ray", "--trainer-cpus=0"], "--trainer-cpus must be above 0, not 0"),
        (["--ray", "--trainers=many"], "--trainers"),
        (["--ray=ray://head:10001"], "a client of a cluster cannot keep the run folder for it"),
        (["--ray=127.0.0.1:1"], "--ray 127.0.0.1:1: no cluster of Ray answers there"),
    ],
)
def test_what_is_wrong_with_the_line_is_said(
    line: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in error_of(capsys, train.main, [*line, f"--out={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_without_the_package_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'compt-fast\[ray\]'"):
        train._spread("auto", {})


def test_what_a_trainer_takes() -> None:
    assert Spread(trainer_cpus=3).says(0) == "--trainer-cpus 3"
    assert Spread().says(1) == "--trainer-cpus 1 and a GPU"


@pytest.mark.parametrize("before", [None, "0,1"])
def test_this_process_sees_no_gpu_for_as_long(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    with _no_gpu():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before
