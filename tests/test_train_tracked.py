"""Jobs with `--track`: what TensorBoard reads is what `metrics.jsonl` and `results.json` hold, and changes no bit."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from compt_fast import train
from compt_fast.training.loop import Trainer
from compt_fast.training.monitor import Monitor
from compt_fast.training.trackers import TRACKERS, Backend, TrackedRun
from tests.helpers import jobs
from tests.helpers.jobs import Line, equal


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The numbers of a run by name, as TensorBoard reads them."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_job_that_is_interrupted_is_tracked_as_one(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"method": "spp", "seeds": "0,1", "steps": "6", "select": "best"}
    assert train.main(line(tmp_path / "plain", **chosen)) == 0
    out, step = tmp_path / "tracked", Trainer.train_step

    def interrupted(self: Trainer, monitor: Monitor) -> object:
        if self.step == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self, monitor)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupted)
        assert train.main(line(out, **chosen, track="tensorboard", track_every="1")) == 128 + signal.SIGINT
    assert train.main(["--resume", str(out)]) == 0
    equal(out, tmp_path / "plain")
    for run in jobs.results(out)["runs"]:
        found = scalars(out / "tensorboard" / run["id"])
        records = [record for record in jobs.metrics(out) if record["run"] == run["id"]]
        for name in ("loss", "gradient_norm", "tokens_per_second"):
            assert [step for step, _ in found[name]] == [1, 2, 3, 4, 5, 6]
            assert [value for _, value in found[name]] == pytest.approx([record[name] for record in records])
        assert found["learning_rate/source"][0][1] == pytest.approx(records[0]["learning_rate"]["source"])
        assert found["final/average"] == [(6, pytest.approx(run["average"]))]
        assert [step for step, _ in found["development/average"]] == [1, 2, 3, 4, 5, 6]
        assert max(value for _, value in found["development/average"]) == pytest.approx(run["development"]["average"])


def test_a_tracker_that_fails_leaves_the_job_alone(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(run: TrackedRun) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(TRACKERS, "tensorboard", Backend(full, ("tensorboard",)))  # type: ignore[arg-type]
    assert train.main(line(tmp_path / "run", method="pt", track="tensorboard", track_every="1")) == 0
    note = "note: --track tensorboard has failed ([Errno 28] No space left on device); the training goes on without it"
    assert capsys.readouterr().err.count(note) == 1
