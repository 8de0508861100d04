"""Training without the compiled operators: one message says so, whatever they lack and whenever it shows."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from compt_fast import train
from compt_fast.native import build, library
from compt_fast.runs import estimate
from tests.helpers.jobs import Line


@pytest.fixture
def unbuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process on a machine where nothing was built."""
    monkeypatch.setattr(library, "_decided", None)
    monkeypatch.setattr(library, "_quiet", False)
    monkeypatch.setattr(library, "_already_here", lambda: False)
    (tmp_path / "sources").mkdir()
    monkeypatch.setattr(library, "sources", lambda: tmp_path / "sources")
    monkeypatch.setattr(library, "HERE", tmp_path / "installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("COMPT_FAST_NATIVE", raising=False)


def said_by(line: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[list[str], list[str]]:
    """What a job's lines and its warnings say of the extension."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        assert train.main(line) == 0
    printed = [text for text in capsys.readouterr().out.splitlines() if "C++ extension" in text]
    return printed, [str(warning.message) for warning in caught if "compiled operators" in str(warning.message)]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("CXX", "no-such-compiler", "there is no C++ compiler (no-such-compiler)"),
        ("COMPT_FAST_NATIVE", "0", "turned off by COMPT_FAST_NATIVE=0"),
    ],
)
@pytest.mark.usefixtures("unbuilt")
def test_what_is_known_before_is_one_line(
    name: str,
    value: str,
    reason: str,
    line: Line,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    (printed,), warned = said_by(line(tmp_path / "run"), capsys)
    assert printed.startswith("Not on this machine: ") and reason in printed and not warned


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.usefixtures("unbuilt")
def test_a_build_that_fails_is_said_once(
    measured: bool, line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the line where the estimate has tried it; else training tries it, and a warning says so."""
    broken = tmp_path / "build.py"
    broken.write_text("print('undeclared identifier'); raise SystemExit(1)", encoding="utf-8")
    monkeypatch.setattr(build, "__file__", str(broken))
    monkeypatch.setattr(build, "missing_tool", lambda: None)
    monkeypatch.setattr(build, "facts", lambda sources: {})
    if measured:
        monkeypatch.setattr(estimate, "WORTH", 1e-3)
    printed, warned = said_by(line(tmp_path / "run"), capsys)
    assert len(printed) == measured and len(warned) == (not measured)
    assert "building failed, see " in "".join(printed + warned)
