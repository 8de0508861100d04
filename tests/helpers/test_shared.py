"""Where real data is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import shared
from tests.helpers.foreign import TASKS, t5_base_prompts


def test_each_kind_of_real_data_is_found_in_one_folder_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "SHARED", tmp_path)
    assert shared.real("hub") is None
    (tmp_path / "hub").mkdir()
    (tmp_path / "t5-base-prompts").mkdir()
    assert shared.real("hub") == tmp_path / "hub"
    folder = tmp_path / "t5-base-prompts"
    assert t5_base_prompts(tmp_path) == {task: folder / f"{task}_prompt.pt" for task in TASKS}


def test_a_named_folder_that_is_not_there_is_no_reason_to_make_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "SHARED", tmp_path / "none")
    assert shared.real("hub") is None
    monkeypatch.setattr(shared, "NAMED", str(tmp_path / "none"))
    with pytest.raises(AssertionError, match="there is no such folder"):
        shared.real("hub")
