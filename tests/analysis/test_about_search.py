"""The section of a search against its record."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from compt_fast.analysis import draw
from compt_fast.analysis.about_search import search
from compt_fast.analysis.exhibits import Exhibit
from compt_fast.analysis.runs import Material, read_runs
from compt_fast.search.record import NAME, Interval, Record
from compt_fast.search.trials import best_of
from tests.helpers.made_runs import made_run
from tests.helpers.made_searches import made_search


@dataclass(frozen=True)
class Searched:
    """A run folder with the record of a search, whose best trial has three fresh seeds, and what is said of it."""

    material: Material
    record: Record
    exhibits: dict[str, Exhibit]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    folder, runs = made_run(
        tmp_path_factory.mktemp("search") / "job",
        lambda config, task: 0.5 + 0.1 * config.seed,
        masked=False,
        method="spp",
        shots="4",
        seeds="1,2,3",
        prompt_length="2",
        tasks="mini_rte,mini_stsb",
    )
    record = replace(made_search(), confirming=[run.id for run in runs])
    (folder / NAME).write_text(json.dumps(record.to_json()))
    material = read_runs([folder])
    section = search(material)
    assert section is not None
    return Searched(material, record, {exhibit.title.partition(": ")[2]: exhibit for exhibit in section.exhibits})


def test_the_best_trial_has_its_interval(searched: Searched) -> None:
    record = searched.record
    found, best = searched.exhibits["the best trial"], best_of(record.trials)
    assert best is not None
    assert f"Of 40 trials number {best.number} is best: {best.value:.1f} % in development" in found.says
    scores = [entry.average for entry in searched.material.entries]
    assert f"{Interval.of(scores)} % in the test with 3 fresh seeds" in found.says
    assert f"{statistics.fmean(scores):.1f} ±" in found.says
    assert ["shots", "4"] in found.table.rows and ["method", best.point["method"]] in found.table.rows


def test_trials_stand_by_their_value(searched: Searched) -> None:
    found = searched.exhibits["the trials"]
    values = [row[1] for row in found.table.rows if row[1] is not None]
    assert values == sorted(values, key=lambda v: -float(v)) and len(found.table.rows) == 40
    assert "Of 40 trials 32 were trained to the end, 8 were stopped early" in found.says
    assert found.picture is not None and "sources[method=spp]" in draw.svg(found.picture)
    assert searched.exhibits["what mattered"].table.rows[0][0] == "lr_private"


def test_regret_falls_to_nothing(searched: Searched) -> None:
    record = searched.record
    rows = searched.exhibits["how soon"].table.rows
    regrets = [float(row[1] or 0) for row in rows]
    assert regrets == sorted(regrets, reverse=True) and regrets[-1] == 0
    best = best_of(record.trials)
    assert best is not None and rows[-1][0] == best.seconds
    for seconds, regret in rows:
        so_far = [t.value for t in record.trials if t.value is not None and (t.seconds or 0) <= float(seconds or 0)]
        assert max(so_far) == pytest.approx((best.value or 0) - float(regret or 0))


def test_without_a_search_there_is_no_section(tmp_path: Path) -> None:
    folder, _ = made_run(tmp_path / "job", masked=False, method="pt", shots="4", prompt_length="2", tasks="mini_rte")
    assert search(read_runs([folder])) is None
