"""The simulated fleet: no run lost or doubled, never under the bound, and the sums that can be done by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compt_fast.utils.errors import InputError
from tools import simulate_fleet
from tools.simulate_fleet import LENGTHS, Curve, Fleet, Setup, simulate

CURVE = Curve(((1, 0.004), (3, 0.006), (9, 0.015), (27, 0.041)))
H100 = Path("benchmarks/results/h100-2026-11-27.json")

setups = st.builds(
    Setup,
    gpus=st.integers(1, 12),
    runs=st.integers(1, 120),
    width=st.sampled_from([1, 3, 9, 27]),
    seed=st.integers(0, 99),
    mtbf=st.sampled_from([None, 0.001, 0.01, 1.0]),
    restart=st.sampled_from([0.0, 5.0]),
    checkpoint=st.sampled_from([50, 200]),
    halve=st.sampled_from([0, 2, 3]),
    rungs=st.integers(1, 3),
    pause=st.sampled_from([0.0, 0.5]),
    steals=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(setups)
def test_no_run_is_lost_or_doubled_and_none_is_too_quick(setup: Setup) -> None:
    fleet = Fleet(CURVE, setup)
    found = fleet.outcome
    assert sorted(found.finished + found.stopped) == list(range(setup.runs))
    assert found.makespan >= found.bound * (1 - 1e-9)
    assert (found.failures > 0) >= (found.lost > 0) and not (found.stopped and not setup.halve)
    assert not any(gpu.waiting or gpu.alive for gpu in fleet.gpus)


@given(st.integers(0, 99), st.integers(1, 40))
def test_the_steps_taken_are_those_of_the_runs(seed: int, runs: int) -> None:
    exact = simulate(CURVE, Setup(3, runs, 9, seed, mtbf=0.005, restart=1.0))
    assert exact.steps - exact.lost == simulate(CURVE, Setup(1, runs, 1, seed)).steps


def test_one_gpu_with_one_run_at_a_time_is_the_sum() -> None:
    found = simulate(CURVE, Setup(1, 50, 1))
    assert found.makespan == pytest.approx(found.steps * 0.004) == pytest.approx(found.bound)


def test_equal_runs_on_one_gpu_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate_fleet, "LENGTHS", (100,))
    assert simulate(CURVE, Setup(1, 27, 27)).makespan == pytest.approx(100 * 0.041)
    assert simulate(CURVE, Setup(1, 12, 9)).makespan == pytest.approx(100 * (0.015 + 0.006)), "nine, then three"
    assert simulate(CURVE, Setup(3, 27, 9)).makespan == pytest.approx(100 * 0.015)
    paused = simulate(CURVE, Setup(1, 3, 1, pause=2.0))
    assert paused.makespan == pytest.approx(3 * 100 * 0.004 + 2 * 2.0)


def test_failures_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate_fleet, "LENGTHS", (1000,))
    monkeypatch.setattr("random.Random.expovariate", lambda self, rate: 1.0)
    found = simulate(CURVE, Setup(1, 1, 1, mtbf=1.0, restart=5.0, checkpoint=200))
    # 250 steps a second, of which 200 are kept at each failure: four of them, and 200 steps more.
    assert (found.failures, found.lost) == (4, 200)
    assert found.makespan == pytest.approx(4 * (1.0 + 5.0) + 200 * 0.004)


@pytest.mark.parametrize("runs", [100, 1000])
@pytest.mark.parametrize("seed", [0, 1])
def test_more_gpus_are_never_much_worse(runs: int, seed: int) -> None:
    times = [simulate(CURVE, Setup(gpus, runs, 27, seed)).makespan for gpus in (1, 2, 4, 8, 16, 32, 64)]
    assert all(more <= 1.05 * less for less, more in zip(times, times[1:], strict=False))


def test_stealing_makes_up_for_wrong_estimates() -> None:
    setup = Setup(16, 2000, 9, error=1.0)
    found, without = simulate(CURVE, setup), simulate(CURVE, replace(setup, steals=False))
    assert found.makespan < 1.03 * found.bound < 1.07 * without.bound < without.makespan
    assert found.stolen > 0 == without.stolen


def test_halving_stops_two_thirds_at_each_rung() -> None:
    found = simulate(CURVE, Setup(8, 2000, 27, halve=3))
    assert 1 / 9 < len(found.finished) / 2000 < 0.2, "the first to come are compared with few"
    full = 2000 * sum(LENGTHS) / len(LENGTHS)
    assert found.steps < 0.35 * full
    assert simulate(CURVE, Setup(8, 2000, 27, halve=3, seed=1)).steps < 0.35 * full


def test_a_seed_repeats_itself() -> None:
    setup = Setup(8, 300, 9, mtbf=0.01, halve=3)
    assert simulate(CURVE, setup) == simulate(CURVE, setup) != simulate(CURVE, replace(setup, seed=1))


def test_the_curve_of_a_file(repository: Path) -> None:
    curve = Curve.read(repository / H100)
    assert [width for width, _ in curve.points] == [1, 27]
    assert [curve.seconds(1), curve.seconds(27)] == pytest.approx([0.00443, 0.04095], abs=1e-5)
    assert curve.seconds(14) == pytest.approx((curve.seconds(1) + curve.seconds(27)) / 2)
    assert curve.width() == 27
    assert CURVE.seconds(54) == pytest.approx(0.041 + 0.026 * 27 / 18)
    assert Curve(((1, 1.0), (2, 1.01), (4, 2.0))).width() == 2


@pytest.mark.parametrize("content", ["{}", '{"training_step": {"replayed bf16, 1 runs": {"seconds_a_step": 1}}}'])
def test_a_file_without_a_curve(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match="a curve takes two or more"):
        Curve.read(tmp_path / "a.json")
    assert simulate_fleet.main([str(tmp_path / "a.json")]) == 2
    assert "a.json: training_step has" in capsys.readouterr().err


def test_the_command_writes_and_draws(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--gpus 2,4 --runs 30,60 --mtbf 0.5 --halve 3"
    places = ["--plot", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.json")]
    assert simulate_fleet.main([str(repository / H100), *options.split(), *places]) == 0
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert len(rows) == 16 == len(capsys.readouterr().out.splitlines())
    assert all(row["finished"] + row["stopped"] == row["runs"] and row["over_bound"] >= 1 for row in rows)
    assert 0 < (tmp_path / "a.png").stat().st_size < 200_000
