"""Stored prompts scored again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compt_fast import train
from compt_fast.runs.rescoring import open_stored, rescore
from compt_fast.utils.errors import InputError
from tests.helpers import jobs


def test_what_has_changed_is_named(tiny_t5: Path, toys: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    chosen = jobs.settings(tiny_t5, toys[:2], method="pt-joint", seeds="0,1", steps=1)
    assert train.main(jobs.arguments(chosen, folder)) == 0
    loaded, names = open_stored(folder, None, {})
    found = rescore(loaded, names)
    assert names == ["pt-joint-k4-s0", "pt-joint-k4-s1"] == [result.id for result in found.results]
    assert (found.changed, found.unscored, len(found.records)) == ([], [], 2 * 2 * 6)
    results = jobs.results(folder)
    results["runs"][1]["average"] += 1
    (folder / "results.json").write_text(json.dumps(results))
    assert rescore(loaded, names[1:]).changed == names[1:]
    with pytest.raises(InputError, match="it holds one run's prompts: name its run folder"):
        open_stored(folder / "prompts" / names[0], None, {})
