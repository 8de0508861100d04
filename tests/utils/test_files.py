"""Atomic writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compt_fast.utils import files
from compt_fast.utils.files import (
    check_length,
    clean,
    new_file,
    new_folder,
    new_tree,
    remove_folder,
    write_json,
    write_text,
)


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


def test_without_an_exchange_of_names_the_old_folder_is_put_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(one: Path, other: Path) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(files, "exchange", cannot)
    path = tmp_path / "folder"
    for name in ("one", "two"):
        with new_folder(path) as temporary:
            (temporary / name).touch()
    assert [path.name for path in path.iterdir()] == ["two"] and list(tmp_path.iterdir()) == [path]
    path.rename(tmp_path / ".folder.0a1b2c3d.old")  # a process that died between the two
    clean(tmp_path, lambda name: name == "folder")
    assert [path.name for path in path.iterdir()] == ["two"]


def test_a_link_in_the_place_of_a_folder_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").touch()
    (tmp_path / "folder").symlink_to(tmp_path / "victim")
    with new_folder(tmp_path / "folder") as temporary:
        (temporary / "new").touch()
    assert (tmp_path / "victim" / "file").exists() and (tmp_path / "folder" / "new").exists()
    assert not (tmp_path / "folder").is_symlink() and len(list(tmp_path.iterdir())) == 2


def test_a_tree_is_never_removed(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "file").touch()
    (tree / "link").symlink_to(tmp_path)
    remove_folder(tree)
    assert (tree / "deep" / "file").exists() and not (tree / "link").is_symlink()
    with new_folder(tree) as temporary:
        (temporary / "new").touch()
    assert (tree / "new").exists()
    (aside,) = (path for path in tmp_path.iterdir() if path != tree)
    assert (aside / "deep" / "file").exists(), "what was none of ours is put aside"
    for nothing in (tmp_path / "none", tree / "none"):
        remove_folder(nothing)


def test_names_and_paths_that_are_too_long_to_be_written(tmp_path: Path) -> None:
    check_length(tmp_path / ("a" * 240))
    for path in (tmp_path / ("a" * 250), tmp_path / ("a/" * 2500)):
        with pytest.raises(OSError, match="File name too long"):
            check_length(path)


def test_a_tree_of_folders_of_files_is_replaced_whole(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with new_tree(tmp_path / "tree") as temporary:
            (temporary / name).mkdir()
            (temporary / name / "file").write_text(name)
            (temporary / "link").symlink_to(tmp_path)
    with pytest.raises(RuntimeError), new_tree(tmp_path / "tree") as temporary:
        (temporary / "half").mkdir()
        (temporary / "half" / "file").touch()
        raise RuntimeError
    assert (tmp_path / "tree" / "two" / "file").read_text() == "two" and not (tmp_path / "tree" / "one").exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "tree"]
    (tmp_path / "file").touch()
    with pytest.raises(OSError), new_tree(tmp_path / "file" / "tree"):
        pass
