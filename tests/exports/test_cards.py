"""The lines of Python in the cards of exports do what they say, as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from compt_fast.prediction.predictor import Predictor
from tests.helpers.exported import fresh


def lines(folder: Path, which: int = 0) -> str:
    """A block of Python of a card, run where the card says."""
    block = (folder / "README.md").read_text(encoding="utf-8").split("```python\n")[1 + which].partition("```")[0]
    return f"import os\nos.chdir({str(folder)!r})\n{block}"


def test_lines_of_cards_answer_as_the_predictor_does(adapters: Path, checkpoint: Path, predictor: Predictor) -> None:
    """One adapter, all of them, the one of all tasks, and the checkpoint: in one process, to import once."""
    pytest.importorskip("peft", reason="needs the extra bench: pip install -e '.[bench]'")
    blocks = [lines(adapters / "mini_rte"), lines(adapters), lines(adapters, 1), lines(checkpoint)]
    rows = {task: {column: f"{{{column}}}" for column, _ in of.fields} for task, of in predictor.tasks.items()}
    first, second, *_ = rows
    asked = [["mini_rte"], [first], [first, second], [first]]
    ours = [str([predictor.predict(rows[task], task).text for task in tasks]) for tasks in asked]
    assert [line for line in fresh("\n".join(blocks)).splitlines() if line.startswith("[")] == ours
