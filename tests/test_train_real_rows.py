"""The suites over rows in the hub's layout, real ones where there are some."""

from __future__ import annotations

from pathlib import Path

import pytest

from compt_fast import evaluate, train
from compt_fast.tasks.table import SUITES, TASKS
from tests.helpers import jobs
from tests.helpers.hub_rows import write_hub
from tests.helpers.shared import real
from tests.helpers.tiny_t5 import make_t5

pytest.importorskip("pyarrow")
# The number of rows that every task is scored on.
ROWS = 3


def check(suite: str, root: Path, model: Path, out: Path) -> None:
    argv = [f"--data-root={root}", f"--suite={suite}", f"--model={model}", "--method=spp,pt-joint"]
    argv += ["--shots=16", "--seeds=0,1", "--steps=2", "--batch-size=4", f"--eval-size={ROWS}"]
    assert train.main([*argv, "--max-source-length=64", f"--out={out}"]) == 0
    runs = jobs.results(out)["runs"]
    assert [run["id"] for run in runs] == [*("spp-n3-k16-s0", "spp-n3-k16-s1", "pt-joint-k16-s0", "pt-joint-k16-s1")]
    for run in runs:
        assert list(run["tasks"]) == list(SUITES[suite]) and run["status"] == "finished"
        for name, entry in run["tasks"].items():
            assert list(entry["scores"]) == list(TASKS[name].metrics)
            assert entry["n"] == ROWS
    assert evaluate.main([str(out)]) == 0


@pytest.mark.parametrize("suite", ["glue", "set2", "crosspt-set2", "superglue", "others"])
def test_rows_in_the_hubs_schemas(suite: str, tiny_t5: Path, tmp_path: Path) -> None:
    check(suite, write_hub(tmp_path / "hub"), tiny_t5, tmp_path / "run")


@pytest.fixture(scope="module")
def small_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """T5-small's shape, random weights; T5's own tokenizer where it is."""
    return make_t5(tmp_path_factory.mktemp("t5-small"), size="t5-small", tokenizer=real("t5-tokenizer"))


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["glue", "set2"])
def test_real_rows(suite: str, hub_root: Path | None, small_t5: Path, tmp_path: Path) -> None:
    check(suite, hub_root or write_hub(tmp_path / "hub"), small_t5, tmp_path / "run")
