"""A format is one file, and an export takes the place of exports alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from compt_fast.config import choices
from compt_fast.exports import EXPORTS, Export, write_export
from compt_fast.prediction.predictor import Predictor
from compt_fast.utils.errors import InputError
from compt_fast.utils.locks import at_work
from tests.helpers.exported import made_predictor


def lengths(predictor: Predictor, folder: Path) -> None:
    """A made-up format: a file a task with the number of its prompt's tokens, in a folder."""
    (folder / "lengths").mkdir()
    for name, one in predictor.prompts.items():
        (folder / "lengths" / f"{name}.txt").write_text(str(one.prompts.shape.target_length))


def fails(predictor: Predictor, folder: Path) -> None:
    """One that cannot be written to the end."""
    lengths(predictor, folder)
    raise InputError("it holds no such prompts")


@pytest.fixture
def predictor(tiny_t5: Path, tmp_path: Path) -> Predictor:
    return made_predictor(tiny_t5, tmp_path / "store")


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPORTS, "lengths", Export(lengths))
    monkeypatch.setitem(EXPORTS, "fails", Export(fails))
    monkeypatch.setitem(EXPORTS, "lacking", Export(lengths, packages=("no_such_package",)))


def test_a_format_of_ones_own(predictor: Predictor, tmp_path: Path) -> None:
    files = write_export(predictor, "lengths", tmp_path / "out")
    assert [str(file) for file in files] == ["lengths/rte.txt", "export.json"]
    assert (tmp_path / "out" / "lengths" / "rte.txt").read_text() == "3"


def test_formats_are_listed_in_order() -> None:
    assert choices.EXPORT_NAMES[:2] == ("peft", "vocabulary")


def test_an_export_replaces_an_export(predictor: Predictor, tmp_path: Path) -> None:
    for name in ("peft", "lengths"):
        write_export(predictor, name, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json", "lengths"]
    with pytest.raises(InputError, match="no such prompts"):
        write_export(predictor, "fails", tmp_path / "out")
    assert (tmp_path / "out" / "lengths" / "rte.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]


def test_nothing_else_is_replaced(predictor: Predictor, tmp_path: Path) -> None:
    write_export(predictor, "lengths", tmp_path / "out")
    (tmp_path / "out" / "lengths" / "mine.txt").touch()
    with pytest.raises(InputError, match=r"out: holds lengths/mine\.txt, which no export wrote"):
        write_export(predictor, "lengths", tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; name a folder"):
        write_export(predictor, "lengths", tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with pytest.raises(InputError, match="is a link; name a folder"):
        write_export(predictor, "lengths", tmp_path / "link")
    with pytest.raises(InputError, match=r"\.\.: name a folder in it"):
        write_export(predictor, "lengths", tmp_path / "..")
    with pytest.raises(InputError, match="file: cannot be written|Not a directory|File exists"):
        write_export(predictor, "lengths", tmp_path / "file" / "out")


def test_a_missing_package_and_an_unknown_format_are_named(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--format lacking needs no_such_package: pip install no_such_package"):
        write_export(predictor, "lacking", tmp_path / "out")
    with pytest.raises(InputError, match="unknown format 'lenghts'. Did you mean 'lengths'"):
        write_export(predictor, "lenghts", tmp_path / "out")


def test_what_a_killed_export_left_goes_with_the_next(predictor: Predictor, tmp_path: Path) -> None:
    left = [tmp_path / name for name in (".out.0123abcd", ".other.0123abcd", ".out.no-digits")]
    for each in left:
        (each / "lengths").mkdir(parents=True)
        (each / "lengths" / "rte.txt").write_text("3")
    with at_work(tmp_path, lambda: None):  # as another export that is still writing
        write_export(predictor, "lengths", tmp_path / "out")
    assert all(each.exists() for each in left)
    write_export(predictor, "lengths", tmp_path / "out")
    assert [each.exists() for each in left] == [False, True, True]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json", "lengths"]
