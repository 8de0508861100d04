"""Atomic writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compt_fast.files import new_file, new_folder, write_json, write_text


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"x": [1, 2.5, "é"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"x": [1, 2.5, "é"]}
    write_text(path, "new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_not_a_number_is_refused_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    assert path.read_text() == "1\n" and list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file_or_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with pytest.raises(RuntimeError), new_file(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    with pytest.raises(RuntimeError), new_folder(tmp_path / "folder") as temporary:
        (temporary / "half").touch()
        raise RuntimeError
    assert (tmp_path / "file").read_text() == "old"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["old"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with new_folder(tmp_path / "deep" / "folder") as temporary:
            (temporary / name).touch()
    assert [path.name for path in (tmp_path / "deep" / "folder").iterdir()] == ["two"]
    assert len(list((tmp_path / "deep").iterdir())) == 1
