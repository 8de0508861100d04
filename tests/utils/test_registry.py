"""Folders whose files are the choices of a setting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from compt_fast.config import choices
from compt_fast.utils.registry import Registry, names_in, summary


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of three entries, one of which cannot be imported."""
    folder = tmp_path / "made_up_entries"
    folder.mkdir()
    (folder / "__init__.py").write_text('ORDER = ("second", "first-one")\n')
    for name, text in {"first_one": "ENTRY = 1", "second": "ENTRY = 2", "broken": "raise RuntimeError('read')"}.items():
        (folder / f"{name}.py").write_text(text + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("", ".first_one", ".second"):
        monkeypatch.delitem(sys.modules, folder.name + name, raising=False)
    return folder.name


def test_names_are_those_of_the_files_in_their_order_and_no_entry_is_imported(package: str) -> None:
    registry: Registry[int] = Registry(package)
    assert names_in(package) == tuple(registry) == ("second", "first-one", "broken")
    assert "broken" in registry and "third" not in registry and len(registry) == 3


def test_an_entry_is_imported_when_it_is_asked_for(package: str) -> None:
    registry: Registry[int] = Registry(package)
    assert (registry["first-one"], registry["second"]) == (1, 2)
    with pytest.raises(RuntimeError, match="read"):
        registry["broken"]
    with pytest.raises(KeyError):
        registry["os.path"]


def test_an_entry_that_is_no_file_comes_and_goes(package: str) -> None:
    registry: Registry[int] = Registry(package)
    registry["third"] = 3
    assert registry["third"] == 3 and list(registry)[-1] == "third"
    del registry["third"]
    assert registry.get("third") is None and "third" not in registry


def test_the_choices_of_flags_are_listed_without_torch() -> None:
    code = "import sys, compt_fast.config.flags; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_choices_stand_in_the_order_of_their_first_release() -> None:
    assert names_in("compt_fast.prompts.compositions")[:5] == ("spp", "scp", "pt", "mst", "inside")
    assert choices.ENCODER_NAMES[:3] == ("mlp", "linear", "lstm")
    assert choices.ROUTER_NAMES[:3] == ("direct", "constant", "relaxed-bernoulli")
    assert choices.NORMALISATION_NAMES[:5] == ("auto", "softmax", "sparsemax", "sigmoid", "softmax-temperature")
    assert choices.GATE_NAMES[:5] == ("fixed", "learned", "learned-global", "tied", "input")


def test_the_first_line_of_an_entrys_file_says_what_it_is(package: str, tmp_path: Path) -> None:
    (tmp_path / package / "told_of.py").write_text('"""What it is.\n\nMore."""\nraise RuntimeError\n')
    assert summary(package, "told-of") == "What it is" and summary(package, "second") == ""
    assert summary(package, "assigned") == "registered by assignment"
