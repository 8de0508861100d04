"""Which runs compare, how they are named, and their means over seeds."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from compt_fast.analysis.contrasts import Point, grouped, labels, points, series, settings
from compt_fast.analysis.runs import Entry, read_runs
from tests.helpers.made_runs import made_run

TASKS = "mini_rte,mini_cola"


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """spp with one and two sources, and pt, at 8 and 16 shots, two seeds."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    given = {"method": "spp,pt-joint", "sources": "1,2", "shots": "16,8", "seeds": "0,1", "tasks": TASKS}
    made_run(folder, lambda config, task: 0.3 + 0.02 * (config.shots or 0), **given)
    return read_runs([folder]).entries


def test_a_point_is_the_mean_and_sample_deviation_of_its_seeds() -> None:
    scores = (60.0, 63.0, 69.0)
    mean = sum(scores) / 3
    assert Point(8, scores).mean == pytest.approx(mean)
    assert Point(8, scores).sd == pytest.approx(math.sqrt(sum((s - mean) ** 2 for s in scores) / 2))
    assert Point(8, (60.0,)).sd == 0


def test_trunks_are_told_apart_by_the_beginning_of_their_hashes() -> None:
    keys = [(("method", "pt"), ("engine", "fast"), ("trunk", digit * 64)) for digit in "01"]
    assert labels(keys) == ["pt, trunk 00000000", "pt, trunk 11111111"]


def test_runs_of_all_seeds_make_one_point_in_the_order_of_the_setting(entries: list[Entry]) -> None:
    lines = series(entries, "shots")
    assert [line.label for line in lines] == ["spp, N=1", "spp, N=2", "pt-joint"]
    for line in lines:
        assert [point.x for point in line.points] == [8, 16]
        assert all(len(point.scores) == 2 for point in line.points)
    chosen = [e.average for e in entries if e.config.method == "pt-joint" and e.config.shots == 16]
    assert lines[2].points[1].scores == tuple(chosen)
    assert lines[2].best in lines[2].points and lines[2].best.mean == max(p.mean for p in lines[2].points)


def test_doubled_epochs_of_few_shots_are_no_second_difference(entries: list[Entry]) -> None:
    assert {entry.config.epochs for entry in entries} == {30, 60}
    assert len(grouped(entries, "shots", "sources")) == 2
    assert dict(settings(entries[0]))["epochs"] == 30
    assert {dict(settings(entry, "shots"))["epochs"] for entry in entries} == {"of the preset"}


def test_runs_of_other_epochs_are_no_further_seeds(tmp_path: Path) -> None:
    """Of the preset's epochs few shots make twice as many; epochs that a flag names are another setting."""
    given = {"method": "pt-joint", "shots": "8,16", "tasks": TASKS}
    preset, _ = made_run(tmp_path / "preset", masked=False, **given)
    named, _ = made_run(tmp_path / "named", masked=False, epochs="10,20", **given)
    lines = series(read_runs([preset, named]).entries, "shots")
    assert [line.label for line in lines] == [f"pt-joint, epochs {epochs}" for epochs in ("of the preset", 10, 20)]
    assert all(len(point.scores) == 1 for line in lines for point in line.points)


def test_a_setting_that_does_not_vary_makes_no_series(entries: list[Entry]) -> None:
    assert [line.label for line in series(entries, "sources")] == ["spp, 16 shots", "spp, 8 shots"]
    assert series(entries, "gates") == []
    assert [point.x for point in points(entries, "sources")] == [0, 1, 2]


def test_labels_say_what_tells_groups_of_a_method_apart_and_no_more() -> None:
    def key(**own: object) -> tuple[tuple[str, object], ...]:
        return tuple(own.items())

    keys = [
        key(method="spp", shots=8, epochs=60, prefix=True, lr_source=0.1),
        key(method="spp", shots=16, epochs=30, prefix=True, lr_source=0.1),
        key(method="spp", shots=16, epochs=30, prefix=False, lr_source=0.1),
        key(method="pt-joint", shots=16, epochs=30, prefix=True, lr_source=0.0),
    ]
    assert labels(keys) == ["spp, 8 shots, prefix", "spp, 16 shots, prefix", "spp, 16 shots, no prefix", "pt-joint"]
    assert labels([key(method="pt-joint", shots=None), key(method="pt-joint", shots=4)]) == [
        "pt-joint, all examples",
        "pt-joint, 4 shots",
    ]
    assert labels([key(clip_norm=1.0), key(clip_norm=2.0)]) == ["clip norm 1.0", "clip norm 2.0"]
    assert labels([key(shots=8)]) == ["all runs"]
