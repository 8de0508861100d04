"""metrics.jsonl and the progress bar."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from compt_fast.training import monitor as module
from compt_fast.training.monitor import Monitor
from compt_fast.training.results import RunResult

RESULT = RunResult("pt", "pt", 0, 4, 0, "finished", average=50.0)


def record(step: int, loss: float | None = 1.0) -> dict[str, Any]:
    rates = {"source": 0.1, "private": 0.2, "router": 0.3}
    return {
        "run": "pt-joint-k4-s0",
        "step": step,
        "loss": loss,
        "gradient_norm": 0.5,
        "learning_rate": rates,
    }


def lines(folder: Path) -> list[int]:
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line)["step"] for line in text.splitlines()]


def test_what_a_checkpoint_does_not_know_is_forgotten(tmp_path: Path) -> None:
    console = Console(quiet=True)
    with Monitor(tmp_path, 4, console) as monitor:
        monitor.step([record(1)], speed=1.0)
        kept = monitor.offset
        monitor.step([record(2)], speed=1.0)
        monitor.step([record(3)], speed=1.0)
    assert lines(tmp_path) == [1, 2, 3]
    with Monitor(tmp_path, 4, console) as monitor:
        monitor.rewind(kept, 1)
        monitor.step([record(2)], speed=1.0)
        assert monitor.offset == 2 * kept
    assert lines(tmp_path) == [1, 2]


def test_a_metrics_file_shorter_than_the_checkpoint_says_is_not_padded(tmp_path: Path) -> None:
    with Monitor(tmp_path, 4, Console(quiet=True)) as monitor:
        monitor.rewind(1000, 1)
        monitor.step([record(2)], speed=1.0)
    assert lines(tmp_path) == [2]


def test_a_bar_stands_on_a_terminal_alone(tmp_path: Path) -> None:
    for terminal in (False, True):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=120)
        with Monitor(tmp_path, 2, console) as monitor:
            monitor.step([record(1, 1.25), record(1, None)], speed=1234.0)
        assert bool(out.getvalue()) == terminal
    assert all(text in out.getvalue() for text in ("2/2", "loss 1.250", "1,234 tokens/s", "2 runs"))


def test_one_run_is_no_runs(tmp_path: Path) -> None:
    out = io.StringIO()
    with Monitor(tmp_path, 2, Console(file=out, force_terminal=True, width=120)) as monitor:
        monitor.step([record(1)], speed=1.0)
    assert "1 run " in out.getvalue() and "1 runs" not in out.getvalue()


def test_a_file_gets_a_plain_line_now_and_then_and_at_each_runs_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with Monitor(tmp_path, 8, Console(file=out, width=40, markup=False)) as monitor:
        monitor.rewind(0, 2)
        for seconds in (0.0, 29.0, 1.5, 5.0, 25.1):
            now[0] += seconds
            monitor.step([record(1, 1.25)], speed=1234.5)
        now[0] += 31.0
        monitor.phase("scoring [pt]")
        monitor.ended(RESULT, 1, "pt: average 50.0")
    assert out.getvalue().splitlines() == [
        "training: 5 of 8 steps (62 %), loss 1.250, 1,234 tokens/s, 1 run side by side, 0 min 30 s so far",
        "training: 7 of 8 steps (88 %), loss 1.250, 1,234 tokens/s, 1 run side by side, 1 min 1 s so far",
        "scoring [pt]: 7 of 8 steps (88 %), loss 1.250, 1,234 tokens/s, 1 run side by side, 1 min 32 s so far",
        "pt: average 50.0",
    ]


def test_a_terminal_gets_no_plain_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", -1.0)
    out = io.StringIO()
    with Monitor(tmp_path, 8, Console(file=out, force_terminal=True)) as monitor:
        monitor.step([record(1)], speed=1.0)
        monitor.ended(RESULT, 1, "pt: average 50.0")
    assert "so far" not in out.getvalue() and "average" not in out.getvalue()
